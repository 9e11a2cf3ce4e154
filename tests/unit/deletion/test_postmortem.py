"""The post-mortem: read before the question to Airflow, told after the DELETE, in nobody's way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from healer.cluster import DiagnosticsReader, PodDiagnostics
from healer.cluster.manifest import ContainerTerms, Manifest, ManifestMetadata, ManifestSpec
from healer.cluster.transport import KubeReply, KubeRequest
from healer.config import DiagnosticsConfig
from healer.decision.quarantine import Suspect
from healer.errors import ClusterError, UnreachableError
from healer.insights.diagnostics import DiagnosticsCollector
from healer.model import Action, DeleteResult, DeleteStatus, Finding, Pod, Reason
from tests.unit.cli_world import Answer, Seen, answer, kubernetes, undisturbed_logging
from tests.unit.cli_world import world as commands
from tests.unit.fakes import PROMPT, World
from tests.unit.strategies import a_pod, ended

AT_ONCE = {**PROMPT, "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s"}}
REMAINS = PodDiagnostics("node-1", "Running", None, ())
MANIFEST = Manifest(ManifestMetadata("pod-a"), ManifestSpec(containers=(ContainerTerms("base", "busybox:1.36"),)))


class FakeExaminer:
    """Reads from memory; a test may make it fail or wait."""

    def __init__(self, journal: list[Any] | None = None) -> None:
        self.journal = [] if journal is None else journal
        self.failure: ClusterError | None = None
        self.free = threading.Event()
        self.free.set()

    def statuses(self, pod: Pod, *, manifest: bool = False) -> PodDiagnostics:
        self.free.wait(30)
        self.journal.append(("examine", (pod.uid,)))
        if self.failure is not None:
            raise self.failure
        return replace(REMAINS, manifest=MANIFEST) if manifest else REMAINS

    def log(self, pod: Pod, container: str, *, lines: int, size: int) -> tuple[str, ...]:
        self.journal.append(("log", (pod.uid, container, lines, size)))
        return ("bye",)


def world(**terms: Any) -> tuple[World, FakeExaminer]:
    made = World(policy=AT_ONCE, postMortem={"enabled": True, **terms})
    examiner = FakeExaminer(made.journal)
    made.cluster.diagnostics_reader = lambda: examiner  # type: ignore[attr-defined]
    made.pod("a")
    return made, examiner


@contextmanager
def told() -> Iterator[list[Mapping[str, Any]]]:
    """Collect the post-mortems that are logged meanwhile."""
    found: list[Mapping[str, Any]] = []
    with capture_logs() as logs:
        yield found
    found += [entry for entry in logs if entry["event"] == "post-mortem"]


def test_it_is_read_before_airflow_is_asked_and_told_after_the_delete() -> None:
    made, _ = world(logLines=7, logBytes=100)
    with told() as lines:
        made.audit()
    kinds = [kind for kind, _ in made.journal]
    assert kinds == ["look", "examine", "log", "ask_each", "delete"]
    assert made.journal[2] == ("log", ("a", "base", 7, 100))
    (line,) = lines
    assert (line["pod"], line["node"], list(line["log"]), line["trouble"]) == ("airflow/pod-a", "node-1", ["bye"], None)


def test_no_log_lines_means_no_log() -> None:
    made, _ = world(logLines=0)
    with told() as lines:
        made.audit()
    assert [kind for kind, _ in made.journal] == ["look", "examine", "ask_each", "delete"]
    assert lines[0]["log"] is None


@pytest.mark.parametrize("wanted", [True, False])
def test_the_manifest_is_told_where_it_is_wanted(wanted: bool) -> None:
    made, _ = world(manifest=wanted)
    with told() as lines:
        made.audit()
    spec = {"containers": ({"name": "base", "image": "busybox:1.36"},)}
    assert lines[0]["manifest"] == ({"metadata": {"name": "pod-a"}, "spec": spec} if wanted else None)


@pytest.mark.parametrize("changes", [{"mode": "report"}, {"postMortem": {"enabled": False}}])
def test_where_nothing_is_deleted_or_it_is_off_nothing_is_read(changes: dict[str, Any]) -> None:
    made = World(policy=AT_ONCE, **{"postMortem": {"enabled": True}, **changes})
    made.pod("a")
    with told() as lines:
        made.audit()
    assert lines == []


def test_only_of_the_deleted_it_is_told() -> None:
    made, _ = world()
    made.cluster.results["a"] = [DeleteResult(DeleteStatus.DENIED, "403")]
    with told() as lines:
        made.audit()
    assert lines == []


def test_a_failure_is_told_and_the_deletion_goes_on() -> None:
    made, examiner = world()
    examiner.failure = UnreachableError("no answer")
    with told() as lines:
        made.audit()
    assert made.deleted == ["a"]
    assert lines[0]["trouble"] == "no answer"


def test_who_is_late_is_not_waited_for() -> None:
    examiner = FakeExaminer()
    examiner.free.clear()
    cluster = SimpleNamespace(diagnostics_reader=lambda: examiner)
    diagnostics = DiagnosticsCollector("default", DiagnosticsConfig(enabled=True), cluster, patience=0.05)  # type: ignore[arg-type]
    suspect = Suspect(a_pod(), Finding(Reason.ORPHANED, "", ended()), Action.DELETE, 0.0, 0.0)
    try:
        diagnostics.collect([suspect])
        with told() as lines:
            diagnostics.log(suspect.pod)
    finally:
        examiner.free.set()
    assert lines[0]["trouble"] == "it could not be read in time"


# --- what is read -----------------------------------------------------------------------------------------------------

RAW = {
    "metadata": {"uid": "uid-1", "annotations": {"secret": "hunter2"}},
    "spec": {"nodeName": "node-1", "containers": [{"name": "base", "env": [{"name": "X", "value": "hunter2"}]}]},
    "status": {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "hunter2",
        "containerStatuses": [
            {
                "name": "base",
                "restartCount": 2,
                "image": "hunter2",
                "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "hunter2"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
            },
            {"name": "side", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "hunter2"}}},
        ],
    },
}


class FakeTransport:
    def __init__(self, status: int = 200, body: bytes = b"") -> None:
        self.reply, self.asked = KubeReply(status, body), list[KubeRequest]()

    def send(self, request: KubeRequest) -> KubeReply:
        self.asked.append(request)
        return self.reply


def examiner(*arguments: Any) -> DiagnosticsReader:
    return DiagnosticsReader(FakeTransport(*arguments))  # type: ignore[arg-type]


def test_statuses_without_what_may_be_secret() -> None:
    found = examiner(200, json.dumps(RAW).encode()).statuses(a_pod())
    assert (found.node, found.phase, found.reason) == ("node-1", "Failed", "Evicted")
    base, side = found.containers
    assert (base.what, base.reason, base.exit_code, base.restarts, base.before) == (
        "terminated",
        "OOMKilled",
        137,
        2,
        "Error",
    )
    assert (side.what, side.reason) == ("waiting", "ImagePullBackOff")
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"no"), (200, json.dumps({"metadata": {"uid": "other"}}).encode()), (404, b"")]
)
def test_what_is_not_this_pod_is_an_error(status: int, body: bytes) -> None:
    with pytest.raises(ClusterError):
        examiner(status, body).statuses(a_pod())


def test_of_a_log_the_last_lines_and_bytes() -> None:
    text = "\n".join(f"line {number}" for number in range(100)).encode() + b" \xff"
    transport = FakeTransport(200, text)
    found = DiagnosticsReader(transport).log(a_pod(), "base", lines=3, size=1000)  # type: ignore[arg-type]
    assert found == ("line 97", "line 98", "line 99 \ufffd")
    assert examiner(200, text).log(a_pod(), "base", lines=50, size=4) == ("99 \ufffd",)
    assert transport.asked[0].query["container"] == "base"


# --- the right to read logs -------------------------------------------------------------------------------------------


def lacking(subresource: str, seen: Seen) -> Answer:
    """Answer as the good API server does, but deny what is asked of a subresource."""
    if seen.path.endswith("/selfsubjectaccessreviews"):
        asked = seen.body["spec"]["resourceAttributes"]
        return answer(201, {"status": {"allowed": asked.get("subresource") != subresource}})
    return kubernetes(seen)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"enabled": True}, True),
        ({"enabled": True, "logLines": 0}, False),
        ({"enabled": False}, False),
    ],
)
def test_check_asks_for_the_right_where_logs_are_wanted(
    terms: dict[str, Any], said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with undisturbed_logging(), commands(tmp_path, capsys, cluster=partial(lacking, "log")) as made:
        outcome = made.run("check", config=made.config(postMortem=terms))
        assert outcome.code == 0, "a post-mortem without log lines is no failure"
        assert ("may not get pods/log: a post-mortem will have no log lines" in outcome.out) is said
        assert ("resources: [pods/log]\n    verbs: [get]" in outcome.out) is said
