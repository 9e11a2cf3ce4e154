"""Decoding Pods: what the API server writes, and whatever else arrives."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healer.cluster import decode_pod, quantity
from healer.cluster.pods import decode_page
from healer.errors import InvalidResponseError
from healer.model import POD_SELECTOR, UNREADABLE, Container, Labels, intern_bounded, protects
from tests.lab.marks import PROTECT, SELECTED
from tests.lab.pods import executor_pod, job_pod, kpo_pod
from tests.unit.cluster_server import page, raw_pod

PLACES = [
    "metadata",
    "metadata/annotations",
    "metadata/creationTimestamp",
    "metadata/labels",
    "metadata/labels/dag_id",
    "metadata/ownerReferences",
    "metadata/resourceVersion",
    "metadata/uid",
    "spec",
    "spec/containers",
    "spec/restartPolicy",
    "status",
    "status/conditions",
    "status/containerStatuses",
    "status/phase",
]


def changed(path, value):
    """A good Pod with one place changed; a path that ends nowhere is made."""
    pod = raw_pod()
    *parents, last = path.split("/")
    place = pod
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return pod


def both(pod):
    """Decode it as the watch and as a LIST do."""
    from_dict, from_bytes = decode_pod(pod), decode_pod(json.dumps(pod).encode())
    assert from_dict == from_bytes
    return from_dict


def test_a_plain_pod():
    pod = both(raw_pod())
    assert (pod.namespace, pod.name, pod.uid, pod.resource_version) == ("a", "p", "uid-p", "7")
    assert pod.created == 1767225600.0
    assert pod.phase == "Running"
    assert pod.labels == Labels("d", "t", "r", None, "1")
    assert pod.containers == (Container("base"),)
    assert [pod.terminating, pod.protected, pod.owned, pod.checked] == [False] * 4
    assert pod.restart_never
    assert pod.owner_label is None


@pytest.mark.parametrize(
    ("path", "value", "field", "expected"),
    [
        ("metadata/deletionTimestamp", "2026-01-01T00:00:00Z", "terminating", True),
        ("metadata/annotations", {"kpo-healer.io/protect": "true"}, "protected", True),
        ("metadata/annotations", {"kpo-healer.io/protect": "yes"}, "protected", True),
        ("metadata/annotations", {"kpo-healer.io/protect": "false"}, "protected", False),
        ("metadata/annotations", None, "protected", False),
        ("metadata/labels", {"already_checked": "True"}, "checked", True),
        ("metadata/labels", {"already_checked": "true"}, "checked", False),
        ("metadata/labels", {"kpo-healer.io/airflow": "prod"}, "owner_label", "prod"),
        ("metadata/labels", None, "labels", Labels()),
        ("metadata/labels", {"map_index": "3"}, "labels", Labels(map_index="3")),
        ("metadata/ownerReferences", [{"kind": "Job", "controller": True}], "owned", True),
        ("metadata/ownerReferences", [{"kind": "X"}, {"kind": "Job", "controller": True}], "owned", True),
        ("metadata/ownerReferences", [{"kind": "X", "controller": False}], "owned", False),
        ("metadata/ownerReferences", [{"kind": "X"}], "owned", False),
        ("metadata/creationTimestamp", None, "created", None),
        ("metadata/creationTimestamp", "yesterday", "created", None),
        ("metadata/creationTimestamp", "2026-01-01T00:00:00", "created", None),
        ("metadata/creationTimestamp", "2026-01-01T00:00:00.5+00:00", "created", 1767225600.5),
        ("metadata/resourceVersion", None, "resource_version", ""),
        ("status", None, "phase", ""),
        ("spec/restartPolicy", "OnFailure", "restart_never", False),
        ("spec", None, "restart_never", False),
        ("spec", None, "containers", ()),
    ],
)
def test_a_field(path, value, field, expected):
    assert getattr(both(changed(path, value)), field) == expected


@pytest.mark.parametrize(("value", "protected"), PROTECT)
def test_what_the_annotation_says(value, protected):
    assert both(changed("metadata/annotations", {"kpo-healer.io/protect": value})).protected is protected
    assert protects(value) is protected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3d", 259_200.0),
        (" 12h ", 43_200.0),
        ("1h30m", 5_400.0),
        ("0s", 0.0),
        ("", None),
        ("  ", None),
        ("3", UNREADABLE),
        ("-1", UNREADABLE),
        ("-3d", UNREADABLE),
        ("soon", UNREADABLE),
        ("nan", UNREADABLE),
        ("inf", UNREADABLE),
        ("1e3s", UNREADABLE),
        ("٣d", UNREADABLE),
        ("100y", UNREADABLE),
        ("99999999999d", UNREADABLE),
        ("1h\x00", UNREADABLE),
        ("0" * 10_000 + "1h", UNREADABLE),
        (" " * 10_000, UNREADABLE),
    ],
)
def test_what_the_annotation_of_the_retention_says(value, seconds):
    assert both(changed("metadata/annotations", {"kpo-healer.io/retention": value})).retention == seconds


@pytest.mark.parametrize(("labels", "selected"), SELECTED)
def test_a_pod_read_by_name_tells_whether_the_selector_finds_it(labels, selected):
    assert both(raw_pod(labels=labels)).selected is selected
    assert finds(POD_SELECTOR, labels) is selected


KEYS = ("kubernetes_pod_operator", "airflow-worker", "kubernetes_executor", "spark_kubernetes_operator", "dag_id")
VALUES = ("True", "true", "False", "", "42", " True")


@given(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)))
def test_the_selector_that_is_sent_and_the_one_that_is_checked_agree(labels):
    assert both(raw_pod(labels=labels)).selected is finds(POD_SELECTOR, labels)


def finds(selector, labels):
    """Read a selector as the API server does (`k8s.io/apimachinery/pkg/labels`): `!=` matches an absent label too."""
    for term in selector.split(","):
        if term.startswith("!"):
            good = term[1:] not in labels
        elif "!=" in term:
            key, _, value = term.partition("!=")
            good = labels.get(key) != value
        else:
            key, _, value = term.partition("=")
            good = labels.get(key) == value
        if not good:
            return False
    return True


def condition(kind, status, at, reason=None):
    return {"type": kind, "status": status, "lastTransitionTime": at, "reason": reason}


EARLY, LATER = "2026-01-01T00:00:10Z", "2026-01-01T00:00:20Z"


@pytest.mark.parametrize(
    ("phase", "conditions", "ended"),
    [
        ("Failed", [condition("DisruptionTarget", "True", EARLY)], 1767225610.0),
        ("Failed", [condition("Ready", "False", EARLY)], 1767225610.0),
        ("Succeeded", [condition("ContainersReady", "False", EARLY, "PodCompleted")], 1767225610.0),
        ("Failed", [condition("Ready", "False", LATER), condition("DisruptionTarget", "True", EARLY)], 1767225620.0),
        ("Failed", [condition("Ready", "True", LATER), condition("DisruptionTarget", "False", LATER)], None),
        ("Failed", [condition("PodScheduled", "False", EARLY), condition("Initialized", "True", EARLY)], None),
        ("Failed", [condition("Ready", "False", None), condition(None, None, None)], None),
        ("Failed", [condition("Ready", "False", "yesterday")], None),
        ("Failed", [], None),
        ("Failed", None, None),
        ("Running", [condition("Ready", "False", EARLY)], None),
        ("Running", [condition("DisruptionTarget", "True", EARLY)], None),
        ("Pending", [condition("Ready", "False", EARLY)], None),
    ],
)
def test_conditions_tell_when_a_phase_was_over(phase, conditions, ended):
    pod = raw_pod()
    pod["status"] = {"phase": phase, "conditions": conditions}
    assert both(pod).ended == ended


class TestContainers:
    def ended(self, *statuses):
        pod = raw_pod()
        pod["spec"]["containers"] = [{"name": "base"}, {"name": "airflow-xcom-sidecar"}]
        pod["spec"]["initContainers"] = [{"name": "init"}]
        pod["status"]["initContainerStatuses"] = [{"name": "init", "state": {"terminated": {"exitCode": 0}}}]
        pod["status"]["containerStatuses"] = list(statuses)
        return both(pod).containers

    def test_base_ended_and_a_sidecar_goes_on(self):
        how = {"exitCode": 3, "finishedAt": "2026-01-01T00:00:10Z", "reason": "Error"}
        base, sidecar = self.ended(
            {"name": "airflow-xcom-sidecar", "state": {"running": {}}}, {"name": "base", "state": {"terminated": how}}
        )
        assert base == Container("base", True, 3, 1767225610.0)
        assert sidecar == Container("airflow-xcom-sidecar")

    def test_one_that_was_started_again_has_not_ended(self):
        status = {"name": "base", "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}
        assert self.ended(status)[0] == Container("base")

    def test_ended_without_saying_how(self):
        assert self.ended({"name": "base", "state": {"terminated": {}}})[0] == Container("base", True)

    def test_a_status_of_no_container(self):
        names = [container.name for container in self.ended({"name": "x", "state": {"terminated": {"exitCode": 0}}})]
        assert names == ["base", "airflow-xcom-sidecar"]

    def test_those_that_run_are_shared(self):
        assert both(raw_pod("p")).containers is both(raw_pod("q")).containers


class TestMemory:
    def test_ids_are_held_once(self):
        one, other = (decode_pod(json.dumps(raw_pod(name)).encode()) for name in "pq")
        assert one.labels.dag_id is other.labels.dag_id
        assert one.namespace is other.namespace
        assert one.phase is other.phase


class TestRequests:
    def test_all_containers_count(self):
        pod = raw_pod()
        pod["spec"]["containers"] = [
            {"name": "base", "resources": {"requests": {"cpu": "500m", "memory": "2Gi", "nvidia.com/gpu": "1"}}},
            {"name": "side", "resources": {"requests": {"cpu": 1}}},
            {"name": "none", "resources": {}},
        ]
        decoded = both(pod)
        assert decoded.cpu_cores == 1.5
        assert decoded.memory_bytes == 2 * 1024**3

    @pytest.mark.parametrize(
        ("text", "value"),
        [("100m", 0.1), ("2", 2.0), (3, 3.0), ("1Ki", 1024.0), ("1k", 1000.0), ("1e3", 1000.0), ("0.5Gi", 2.0**29)],
    )
    def test_quantities(self, text, value):
        assert quantity(text) == pytest.approx(value)

    @pytest.mark.parametrize("text", [None, "", "much", "1X", "m"])
    def test_what_is_none(self, text):
        assert quantity(text) == 0.0


class TestNotPods:
    @pytest.mark.parametrize("missing", ["metadata/name", "metadata/uid", "metadata/namespace", "metadata"])
    @pytest.mark.parametrize("value", [None, ""])
    def test_without_a_name_or_uid_it_is_none(self, missing, value):
        if missing != "metadata" or value is None:
            assert both(changed(missing, value)) is None

    @pytest.mark.parametrize("source", [b"", b"[]", b"null", b"{", b'"x"', b"\xff", {}, {"metadata": []}])
    def test_no_object(self, source):
        assert decode_pod(source) is None

    @given(
        st.sampled_from(PLACES),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=6,
        ),
    )
    def test_nothing_raises(self, path, value):
        pod = decode_pod(changed(path, value))
        assert pod is None or pod.uid


class TestPages:
    def test_versions_and_tokens(self):
        decoded = decode_page(json.dumps(page(raw_pod(), version="12", token="next")).encode())
        assert ([pod.name for pod in decoded.pods], decoded.resource_version) == (["p"], "12")
        assert (decoded.continue_token, decoded.skipped) == ("next", ())

    @pytest.mark.parametrize("odd", [{}, {"metadata": 5}, {"metadata": {"name": 1}}, {"metadata": {"name": "x"}}])
    def test_an_odd_item_is_counted_and_spoils_no_other(self, odd):
        decoded = decode_page(json.dumps(page(raw_pod("p"), odd, raw_pod("q"))).encode())
        assert [pod.name for pod in decoded.pods] == ["p", "q"]
        assert len(decoded.skipped) == 1

    @pytest.mark.parametrize("items", [None, []])
    def test_an_empty_page(self, items):
        assert decode_page(json.dumps({**page(), "items": items}).encode()).pods == []

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"[]",
            b'{"kind":"PodList","metadata":{}}',
            b'{"kind":"PodList","items":[]}',
            b'{"kind":"Status","metadata":{},"items":[]}',
            b'{"kind":"PodList","metadata":{},"items":[{"metadata":{"name":"p"}',
        ],
    )
    def test_half_an_answer_is_no_empty_one(self, body):
        with pytest.raises(InvalidResponseError):
            decode_page(body)


class TestRealBodies:
    def test_what_kpo_creates(self):
        body = kpo_pod(
            dag_id="etl", task_id="load", run_id="r", map_index=4, try_number=2, requests={"cpu": "2", "memory": "1Gi"}
        )
        body["metadata"]["uid"] = "u"
        pod = both(body)
        assert pod.labels == Labels("etl", "load", "r", "4", "2")
        assert pod.cpu_cores == 2.0
        assert not pod.owned

    def test_a_job_owns_its_pods(self):
        body = job_pod(dag_id="etl", task_id="load", run_id="r")
        body["metadata"]["uid"] = "u"
        assert both(body).owned

    def test_an_executors_pod_is_read_like_any(self):
        body = executor_pod(dag_id="etl", task_id="load", run_id="r")
        body["metadata"]["uid"] = "u"
        assert both(body).labels.dag_id == "etl"


def test_equal_ids_are_held_once() -> None:
    """Of ten thousand Pods of one run, decoded one by one."""
    first, second = ("".join(("run", "-", "1")) for _ in range(2))
    assert intern_bounded(first) is intern_bounded(second)


def test_no_memory_grows_with_each_new_run() -> None:
    for number in range(5000):
        intern_bounded(f"run {number}")
    assert intern_bounded.cache_info().currsize <= 2048
