"""The command line: what is printed, in which form, with which exit code."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from healer import __version__
from healer.cli.check import manifest
from healer.cli.output import age, printable
from healer.config import LogFormat, LogLevel, Mode
from healer.decision.rules import RULES
from healer.model import Reason
from healer.telemetry.logs import set_up
from tests.unit.cli_world import (
    Answer,
    Seen,
    World,
    answer,
    good_airflow,
    kpo_healer,
    kubernetes,
    missing,
    with_row,
    world,
)
from tests.unit.cluster_server import page, raw_pod

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_logging")]

FIELDS = [
    "namespace",
    "pod",
    "uid",
    "airflow",
    "dag_id",
    "task",
    "labels",
    "reason",
    "action",
    "withheld",
    "detail",
    "since",
    "due",
    "created",
    "holds",
    "cause",
    "notices",
]


def with_pod(changes: dict[str, Any], seen: Seen) -> Answer:
    """Answer as the good API server does, but with another Pod."""
    pod = raw_pod(**changes)
    path = seen.path.partition("?")[0]
    if path.endswith("/pods"):
        return answer(200, page(pod))
    return answer(200, pod) if path.endswith("/pods/p") else kubernetes(seen)


class TestScan:
    def test_finds_the_orphan(self, good: World) -> None:
        outcome = good.run("scan", "-o", "json")
        assert (outcome.code, outcome.err) == (1, "")
        (finding,) = json.loads(outcome.out)
        assert list(finding) == FIELDS
        assert finding["task"] == {
            "dag_id": "d",
            "run_id": "r",
            "task_id": "t",
            "map_index": -1,
            "try_number": 1,
            "state": "failed",
        }
        assert finding["labels"] == {"dag_id": "d", "task_id": "t", "run_id": "r", "try_number": "1"}
        assert (finding["reason"], finding["action"], finding["airflow"]) == ("orphaned", "delete", "prod")
        assert finding["since"] is None
        assert finding["due"].endswith("Z")

    def test_yaml_says_the_same(self, good: World) -> None:
        as_json, as_yaml = good.run("scan", "-o", "json"), good.run("scan", "-o", "yaml")
        unlike = {"due"}
        (one,), (other,) = json.loads(as_json.out), yaml.safe_load(as_yaml.out)
        assert {k: v for k, v in one.items() if k not in unlike} == {k: v for k, v in other.items() if k not in unlike}
        assert len([line for line in as_yaml.out.splitlines() if "detail" in line and "ended 2026" in line]) == 1

    def test_a_table_says_what_matters_in_few_columns(self, good: World) -> None:
        header, row, _, summary = good.run("scan").out.splitlines()
        assert summary.startswith("1 orphan holds ")
        assert header.split() == ["POD", "REASON", "AGE", "HOLDS", "TASK", "DUE"]
        assert [*row.split()[:2], *row.split()[3:]] == ["p", "orphaned", "-", "d.t", "now"]

    def test_a_wide_table_never_folds(self, good: World) -> None:
        header, row, _, _ = good.run("scan", "-o", "wide").out.splitlines()
        assert header.split() == [
            "NAMESPACE",
            "POD",
            "REASON",
            "ACTION",
            "WITHHELD",
            "DUE",
            "AIRFLOW",
            "TASK",
            "CAUSE",
            "DETAIL",
        ]
        assert row.startswith("a          p    orphaned  delete")
        assert row.endswith("ended 2026-01-01T00:00:05Z")

    def test_what_is_only_reported_counts_as_found(self, good: World) -> None:
        config = good.config(policy={"actions": {"orphaned": "report"}})
        outcome = good.run("scan", "-o", "json", config=config)
        assert (outcome.code, json.loads(outcome.out)[0]["action"]) == (1, "report")

    def test_what_the_policy_keeps_is_no_suspect(self, good: World) -> None:
        config = good.config(policy={"actions": {"orphaned": "keep"}})
        assert good.run("scan", "-o", "json", config=config).out == "[]\n"
        (finding,) = json.loads(good.run("scan", "--all", "-o", "json", config=config).out)
        assert (finding["reason"], finding["action"], finding["due"]) == ("orphaned", "keep", None)

    def test_nothing_to_find(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        running = partial(with_row, {"state": "running", "end_date": None})
        with world(tmp_path, capsys, airflow=running) as made:
            outcome = made.run("scan")
            assert (outcome.code, outcome.err) == (0, "")
            assert outcome.out == "Nothing found among 1 Pods of the KubernetesPodOperator.\n"
            (finding,) = json.loads(made.run("scan", "--all", "-o", "json").out)
            assert (finding["reason"], finding["action"]) == ("in-use", "keep")

    def test_ids_do_not_steer_the_terminal(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        hostile = partial(with_row, {"operator": "\x1b[2J[red]\nKubernetesPodOperator", "state": "odd\u202e"})
        with world(tmp_path, capsys, airflow=hostile) as made:
            for form in ("table", "json", "yaml"):
                outcome = made.run("scan", "--all", "-o", form)
                assert "\x1b" not in outcome.out
                assert "\u202e" not in outcome.out
            assert "\x1b" not in made.run("explain", "a/p").out

    def test_asks_only_what_changes_nothing(self, good: World) -> None:
        good.run("scan")
        assert set(good.cluster.methods()) == {"GET"}

    def test_flags_can_describe_everything(self, good: World) -> None:
        (good.folder / "password").write_text("secret")
        flags = ["-n", "a", "-n", "b", "--airflow-url", good.airflow_url, "--airflow-username", "healer"]
        flags += ["--airflow-password-file", str(good.folder / "password"), "--ownership", "exclusive"]
        outcome = good.run("scan", *flags, "-o", "json", env={"KPO_HEALER_MODE": "enforce"})
        assert outcome.code == 1
        assert json.loads(outcome.out)[0]["airflow"] == "default"


class TestExplain:
    @pytest.mark.parametrize(
        ("value", "says"),
        [
            ("3d", "retention   its annotation asks for 3d: at most what policy.retention.longest allows"),
            ("soon", "retention   its annotation holds no duration: as long as policy.retention.longest allows"),
        ],
    )
    def test_a_retention_of_its_own_is_told(self, tmp_path: Path, capsys: Any, value: str, says: str) -> None:
        pod = {"annotations": {"kpo-healer.io/retention": value}}
        with world(tmp_path, capsys, cluster=partial(with_pod, pod)) as made:
            said = made.run("explain", "a/p").out
            assert says in said
            assert ("retention-bounded: " in said) == (value == "soon")

    def test_tries_every_rule_in_order(self, good: World) -> None:
        outcome = good.run("explain", "a/p", "-o", "json")
        assert (outcome.code, outcome.err) == (0, "")
        said = json.loads(outcome.out)
        assert list(said) == ["finding", "pod", "airflow_says", "rules", "next"]
        assert list(said["finding"]) == FIELDS
        reasons = [rule["reason"] for rule in said["rules"]]
        assert reasons == [reason.value for reason, _, _ in RULES][: len(reasons)]
        assert [rule["reason"] for rule in said["rules"] if rule["matched"]] == ["orphaned"]
        assert all(rule["why"] for rule in said["rules"])
        assert said["pod"]["containers"] == [{"name": "base", "terminated": False, "exit_code": None, "finished": None}]
        assert "state failed, try 1" in said["airflow_says"][0]
        assert said["next"].startswith("It will be deleted as orphaned if every later look finds the same; due at ")

    def test_reads_well(self, good: World) -> None:
        text = good.run("explain", "a/p").out
        for part in (
            "Pod a/p",
            "labels      dag_id=d task_id=t run_id=r try_number=1",
            "container   base: not ended",
            "What Airflow prod says",
            "task t of DAG d, run r: state failed, try 1, operator KubernetesPodOperator, ended 2026-01-01T00:00:05Z",
            "no   in-use",
            "yes  orphaned",
            "What happens next",
        ):
            assert part in text

    def test_report_mode_deletes_nothing(self, good: World) -> None:
        said = json.loads(good.run("explain", "a/p", "--mode", "report", "-o", "json").out)
        assert "but this is report mode: nothing is deleted" in said["next"]

    def test_the_policy_may_only_report(self, good: World) -> None:
        config = good.config(policy={"actions": {"orphaned": "report"}})
        assert "reported as orphaned and not deleted" in good.run("explain", "a/p", config=config).out

    def test_why_a_pod_is_kept(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        retrying = partial(with_row, {"state": "up_for_retry"})
        with world(tmp_path, capsys, airflow=retrying) as made:
            outcome = made.run("explain", "a/p")
            assert outcome.code == 0
            assert "It is kept as adoptable: this reason never acts on a Pod." in outcome.out

    def test_a_pod_that_alone_decides(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        protected = partial(with_pod, {"annotations": {"kpo-healer.io/protect": "true"}})
        with world(tmp_path, capsys, cluster=protected) as made:
            outcome = made.run("explain", "a/p")
            assert outcome.code == 0
            assert "It need not be asked: the Pod alone decides." in outcome.out
            assert "yes  protected" in outcome.out
            assert "marks       protected" in outcome.out

    def test_a_pod_of_another_airflow(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        labels = raw_pod()["metadata"]["labels"] | {"kpo-healer.io/airflow": "other"}
        with world(tmp_path, capsys, cluster=partial(with_pod, {"labels": labels})) as made:
            outcome = made.run("explain", "a/p")
            assert outcome.code == 2
            assert "is stamped for none of prod" in outcome.err


class TestCheck:
    def test_all_good(self, good: World) -> None:
        outcome = good.run("check", "-o", "json")
        assert (outcome.code, outcome.err) == (0, "")
        lines = json.loads(outcome.out)
        assert {tuple(line) for line in lines} == {("status", "what", "detail", "fix")}
        assert {line["status"] for line in lines} == {"ok", "warn"}
        details = [line["detail"] for line in lines if line["what"] == "namespace a"]
        assert details[:6] == [
            "may get pods",
            "may list pods",
            "may watch pods",
            "may delete pods",
            "may create events",
            "may patch events",
        ]
        assert [line for line in lines if line["what"] == "airflow prod" and "3.3.2" in line["detail"]]
        assert [line for line in lines if "system:serviceaccount:ops:healer" in line["detail"]]

    def test_the_lease_is_told(self, good: World) -> None:
        assert "ok      lease         kpo-healer in namespace home: may be held; now held by nobody" in (
            good.run("check").out
        )

    def test_a_sole_replica_is_warned_and_needs_no_lease(self, good: World) -> None:
        path = good.config()
        path.write_text(path.read_text() + "leaderElection: {enabled: false}\n")
        outcome = good.run("check", config=path)
        assert outcome.code == 0
        assert "warn    config        leaderElection.enabled: false" in outcome.out
        assert not [seen for seen in good.cluster.seen if "lease" in str(seen)]

    @pytest.mark.parametrize("verb", ["get", "create", "update"])
    def test_a_missing_right_on_the_lease(self, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with world(tmp_path, capsys, cluster=partial(without, verb, "leases")) as made:
            outcome = made.run("check")
        assert outcome.code == 1
        assert f"fail    lease         may not {verb} leases in namespace home" in outcome.out
        role = yaml.safe_load(outcome.out[outcome.out.index("---\n") :].split("---\n")[1])
        verbs = {verb for rule in role["rules"] if rule["resources"] == ["leases"] for verb in rule["verbs"]}
        assert verbs == {"get", "create", "update"}

    @pytest.mark.parametrize("verb", [None, "get", "create", "update"])
    def test_a_history_that_can_not_be_kept_is_a_warning(
        self, verb: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cluster = partial(without, verb, "configmaps") if verb else kubernetes
        with world(tmp_path, capsys, cluster=cluster) as made:
            path = made.config()
            path.write_text(path.read_text() + "history: configMap\n")
            outcome = made.run("check", config=path)
            assert "configmaps" not in made.run("check").out, "only where it is wanted"
        assert outcome.code == 0
        if verb is None:
            assert "ok      history" in outcome.out
            assert "may be kept in the ConfigMap kpo-healer-history in namespace home" in outcome.out
            return
        assert f"warn    history       may not {verb} configmaps in namespace home" in outcome.out
        role = next(r for r in yaml.safe_load_all(outcome.out[outcome.out.index("---\n") :]) if r["kind"] == "Role")
        assert [rule.get("resourceNames") for rule in role["rules"]] == [["kpo-healer-history"], None]

    def test_warnings_do_not_change_the_exit_code(self, good: World) -> None:
        outcome = good.run("check")
        assert outcome.code == 0
        assert "warn    config        airflows[0].policy.grace: shorter than the default 2m" in outcome.out

    @pytest.mark.parametrize("verb", ["get", "list", "watch", "delete"])
    def test_a_missing_right_fails_and_says_how_to_grant_it(
        self, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with world(tmp_path, capsys, cluster=partial(without, verb, "pods")) as made:
            outcome = made.run("check")
            assert outcome.code == 1
            assert f"fail    namespace a   may not {verb} pods: grant it as shown below" in outcome.out
            documents = list(yaml.safe_load_all(outcome.out[outcome.out.index("---\n") :]))
            assert verb in documents[0]["rules"][0]["verbs"]
            assert documents[1]["subjects"] == [{"kind": "ServiceAccount", "name": "healer", "namespace": "ops"}]

    def test_report_mode_need_not_delete(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with world(tmp_path, capsys, cluster=partial(without, "delete", "pods")) as made:
            outcome = made.run("check", "--mode", "report")
            assert outcome.code == 0
            assert "may not delete pods, and need not in report mode" in outcome.out
            assert "kind: Role" not in outcome.out

    @pytest.mark.parametrize("verb", ["create", "patch"])
    def test_events_are_a_comfort(self, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with world(tmp_path, capsys, cluster=partial(without, verb, "events")) as made:
            outcome = made.run("check")
            assert outcome.code == 0
            assert f"warn    namespace a   may not {verb} events" in outcome.out

    def test_no_api_server(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with world(tmp_path, capsys, cluster=lambda _: Answer(503, b"busy")) as made:
            outcome = made.run("check", "-o", "json")
            assert outcome.code == 1
            assert [x["what"] for x in json.loads(outcome.out) if x["status"] == "fail"] == ["cluster"]

    def test_what_is_lost_without_reading_xcoms(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def forbidding(seen: Seen) -> Answer:
            return answer(403, {"detail": "Forbidden"}) if "/xcomEntries/" in seen.path else good_airflow(seen)

        with world(tmp_path, capsys, airflow=forbidding) as made:
            outcome = made.run("check")
            assert outcome.code == 0
            assert "grant can_read on XComs" in outcome.out

    def test_no_right_to_read_task_instances(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def forbidding(seen: Seen) -> Answer:
            return answer(403, {"detail": "Forbidden"}) if seen.path.endswith("/list") else good_airflow(seen)

        with world(tmp_path, capsys, airflow=forbidding) as made:
            outcome = made.run("check")
            assert outcome.code == 1
            assert "can_read on DAGs, DAG Runs and Task Instances" in outcome.out

    @pytest.mark.parametrize(
        ("account", "subject"),
        [
            ("system:serviceaccount:ops:healer", {"kind": "ServiceAccount", "name": "healer", "namespace": "ops"}),
            ("jane", {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}),
        ],
    )
    def test_manifest_is_what_kubectl_takes(self, account: str, subject: dict[str, str]) -> None:
        _, role, binding = yaml.safe_load_all(
            "---\n".join(["{}\n", *manifest("x", Mode.ENFORCE, account).split("---\n")[1:]])
        )
        assert role["rules"] == [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "delete"]},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
        ]
        assert binding["subjects"] == [subject]
        assert "delete" not in manifest("x", Mode.REPORT, account)


def without(verb: str, resource: str, seen: Seen) -> Answer:
    """Answer as the good API server does, but deny one right."""
    if seen.path.endswith("/selfsubjectaccessreviews"):
        asked = seen.body["spec"]["resourceAttributes"]
        return answer(201, {"status": {"allowed": (asked["verb"], asked["resource"]) != (verb, resource)}})
    return kubernetes(seen)


class TestRunOnce:
    def test_deletes_and_says_so(self, good: World) -> None:
        outcome = good.run("run", "--once", "-o", "json")
        assert outcome.code == 0
        said = json.loads(outcome.out)
        assert [finding["pod"] for finding in said["deleted"]] == ["p"]
        assert said["left"] == []
        assert good.deletions == 1

    def test_lists_what_is_due_later(self, good: World) -> None:
        config = good.config(policy={"minAge": "87600h", "grace": "0s", "sightings": 1})
        outcome = good.run("run", "--once", config=config)
        assert outcome.code == 0
        assert "Deleted: 0" in outcome.out
        assert "Left for later: 1" in outcome.out
        assert good.deletions == 0

    def test_report_mode_deletes_nothing(self, good: World) -> None:
        outcome = good.run("run", "--once", "--mode", "report", "-o", "json")
        assert outcome.code == 0
        (finding,) = json.loads(outcome.out)["left"]
        assert (finding["action"], finding["withheld"]) == ("delete", "report-mode")
        assert good.deletions == 0

    def test_takes_the_lease_and_gives_it_away(self, good: World) -> None:
        assert good.run("run", "--once").code == 0
        writes = [s for s in good.cluster.seen if "/namespaces/home/leases" in s.path and s.method != "GET"]
        holders = [write.body["spec"]["holderIdentity"] for write in writes]
        assert holders[0] is not None
        assert (set(holders[:-1]), holders[-1]) == ({holders[0]}, None)
        methods = [s.method for s in good.cluster.seen]
        assert methods.index("PUT") < methods.index("DELETE") < len(methods) - 1

    def test_a_sole_replica_needs_no_lease(self, good: World) -> None:
        path = good.config()
        path.write_text(path.read_text() + "leaderElection: {enabled: false}\n")
        assert good.run("run", "--once", config=path).code == 0
        assert good.deletions == 1
        assert not [seen for seen in good.cluster.seen if "leases" in seen.path]

    def test_leaves_it_to_another_that_leads(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lease = ALease(holder="other", renews=True)
        with world(tmp_path, capsys, cluster=lease) as made:
            outcome = made.run("run", "--once", config=brisk(made))
            assert outcome.code == 3
            assert outcome.err.strip().splitlines()[-1].startswith("error: another replica leads (other): it heals")
            assert (outcome.out, made.deletions) == ("", 0)
            assert not [seen for seen in made.cluster.seen if seen.method == "PUT"]

    def test_waits_for_a_dead_holder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with world(tmp_path, capsys, cluster=ALease(holder="dead")) as made:
            assert made.run("run", "--once", config=brisk(made)).code == 0
            assert made.deletions == 1

    def test_gives_up_without_the_right(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def forbidding(seen: Seen) -> Answer:
            return answer(403, {"message": "no"}) if "/leases" in seen.path else kubernetes(seen)

        with world(tmp_path, capsys, cluster=forbidding) as made:
            outcome = made.run("run", "--once", config=brisk(made))
            assert outcome.code == 3
            assert "error: The healer may not read its Lease in namespace home" in outcome.err
            assert made.deletions == 0

    def test_stops_where_the_lease_is_lost(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lease = ALease()

        def stealing(seen: Seen) -> Answer:
            reply = lease(seen)
            if seen.method == "PUT":
                lease.hand_to("other")
            return reply

        with world(tmp_path, capsys, cluster=stealing) as made:
            outcome = made.run("run", "--once", config=brisk(made, policy={"minAge": "0s", "grace": "2s"}))
            assert outcome.code == 3
            assert "incomplete: the Lease was lost meanwhile" in outcome.err
            assert made.deletions == 0


def brisk(made: World, **airflow: Any) -> Path:
    """A configuration that looks at the Lease often, and yet is patient enough for a busy machine to renew in time."""
    path = made.config(**airflow)
    path.write_text(
        path.read_text() + "leaderElection: {leaseDuration: 6s, renewDeadline: 5900ms, retryPeriod: 100ms}\n"
    )
    return path


class ALease:
    """An API server with a Lease that others may hold, and that a holder may renew each time it is looked at."""

    def __init__(self, holder: str = "", *, renews: bool = False, annotations: dict[str, str] | None = None) -> None:
        self.holder, self._renews, self._version = holder, renews, 1
        self.annotations = annotations or {}

    def hand_to(self, holder: str) -> None:
        self.holder, self._version = holder, self._version + 1

    def __call__(self, seen: Seen) -> Answer:
        if "/leases" not in seen.path:
            return kubernetes(seen)
        if seen.method == "GET":
            self._version += self._renews
            return answer(200, self._body())
        if seen.body["metadata"]["resourceVersion"] != str(self._version):
            return answer(409, {"message": "modified"})
        self.annotations = seen.body["metadata"]["annotations"]
        self.hand_to(seen.body["spec"]["holderIdentity"] or "")
        return answer(200, self._body())

    def _body(self) -> dict[str, Any]:
        metadata = {"name": "kpo-healer", "resourceVersion": str(self._version), "annotations": self.annotations}
        spec = {"holderIdentity": self.holder or None, "leaseDurationSeconds": 6, "renewTime": f"t{self._version}"}
        return {"metadata": metadata, "spec": spec}


class TestRelease:
    def test_writes_the_annotation(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lease = ALease("leader", annotations={"kept": "yes"})
        with world(tmp_path, capsys, cluster=lease) as made:
            outcome = made.run("release", "--airflow", "prod")
        assert (outcome.code, outcome.err) == (0, "")
        (until,) = re.findall(r"^The breaker of Airflow prod is lifted until (\S+Z)\.$", outcome.out)
        assert lease.annotations == {"kept": "yes", "release.kpo-healer.io/prod": until}
        assert lease.holder == "leader"

    def test_tries_again_where_the_leader_was_faster(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lease = ALease("leader")
        refusals = iter([True, True, False])

        def racing(seen: Seen) -> Answer:
            if seen.method == "PUT" and next(refusals):
                return answer(409, {"message": "modified"})
            return lease(seen)

        with world(tmp_path, capsys, cluster=racing) as made:
            assert made.run("release", "--airflow", "prod").code == 0

    @pytest.mark.parametrize(
        ("name", "more", "sentence"),
        [
            ("test", "", "no Airflow is called so: the configuration has prod"),
            ("prod", "leaderElection: {enabled: false}\n", "leaderElection.enabled is false, so there is no Lease"),
        ],
    )
    def test_says_why_not(self, name: str, more: str, sentence: str, good: World) -> None:
        path = good.config()
        path.write_text(path.read_text() + more)
        outcome = good.run("release", "--airflow", name, config=path)
        assert outcome.code == 2
        assert outcome.err.startswith(f"error: {sentence}")
        assert len(outcome.err.splitlines()) == 1

    def test_needs_a_lease(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def without(seen: Seen) -> Answer:
            return missing("not found") if "/leases" in seen.path else kubernetes(seen)

        with world(tmp_path, capsys, cluster=without) as made:
            outcome = made.run("release", "--airflow", "prod")
        assert outcome.code == 2
        assert outcome.err.startswith("error: there is no Lease kpo-healer in namespace home, so no healer has led")
        assert len(outcome.err.splitlines()) == 1

    @pytest.mark.parametrize(("method", "doing"), [("GET", "read its Lease"), ("PUT", "renew its Lease")])
    def test_without_the_right(
        self, method: str, doing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lease = ALease("leader")

        def forbidding(seen: Seen) -> Answer:
            return answer(403, {"message": "no"}) if seen.method == method else lease(seen)

        with world(tmp_path, capsys, cluster=forbidding) as made:
            outcome = made.run("release", "--airflow", "prod")
        assert outcome.code == 2
        assert f"The healer may not {doing} in namespace home" in outcome.err


class TestRim:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert kpo_healer(capsys, "--version").out == f"kpo-healer {__version__}\n"

    def test_help_names_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        outcome = kpo_healer(capsys, "--help")
        assert outcome.code == 0
        assert all(command in outcome.out for command in ("run", "scan", "explain", "check"))

    def test_without_a_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        outcome = kpo_healer(capsys)
        assert outcome.code == 2
        assert "Usage: kpo-healer" in outcome.err

    def test_a_mistake_of_ours(self, good: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise KeyError("a bug")

        monkeypatch.setattr("healer.cli.oneshot.scan", broken)
        outcome = good.run("scan")
        assert outcome.code == 3
        assert outcome.err == (
            "error: kpo-healer made a mistake (KeyError: 'a bug'): please report it with what --log-level debug shows\n"
        )
        assert (
            "a bug"
            in json.loads(good.run("scan", "--log-level", "debug").err.splitlines()[-2])["exception"][0]["exc_value"]
        )

    def test_an_interrupt_is_quiet(self, good: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("healer.cli.oneshot.scan", interrupted)
        outcome = good.run("scan")
        assert (outcome.code, outcome.out, outcome.err.strip()) == (130, "", "")

    def test_a_reader_that_leaves_is_no_error(self, good: World) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        arguments = ["scan", "--config", str(good.config()), "--kubeconfig", str(good.folder / "kubeconfig")]
        ended = subprocess.run(
            [sys.executable, "-m", "healer", *arguments], stdout=writing, stderr=subprocess.PIPE, check=False
        )
        os.close(writing)
        assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")

    def test_an_ascii_terminal_shows_any_id(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = io.BytesIO()
        with world(tmp_path, capsys, airflow=partial(with_row, {"operator": "Opérateur"})) as made:
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
            assert made.run("explain", "a/p").code == 0
        assert rb"operator Op\xe9rateur" in shown.getvalue()


STEERING = {
    "colour": "\x1b[31m",
    "title": "\x1b]0;t\x07",
    "line": "\n2026-01-01T00:00:00Z [info     ] forged",
    "return": "\rforged",
    "backspace": "\b\b",
    "delete": "\x7f",
    "nul": "\0",
    "c1": "\x9b31m",
    "next-line": "\x85forged",
    "line-separator": "\u2028forged",
    "right-to-left": "\u202e",
    "isolate": "\u2066",
    "mark": "\u200f",
    "zero-width": "\u200b",
    "byte-order": "\ufeff",
    "tag": "\U000e0041",
    "private": "\ue000",
    "surrogate": "\ud800",
}
"""What a terminal obeys or does not show."""


class Odd:
    """Its text is not escaped by Python, as that of a text in a list is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"<{self._text}>"

    __str__ = __repr__


class TestLogs:
    def test_one_shot_commands_keep_quiet(self, good: World) -> None:
        assert good.run("scan").err == ""

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        set_up(LogFormat.JSON, LogLevel.INFO)
        structlog.get_logger("healer.x").info("deleted", pod="a/p")
        logging.getLogger("kopf").warning("watching %s", "pods")
        logging.getLogger("kopf").debug("not shown")
        ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
        assert (ours["message"], ours["pod"], ours["level"], ours["logger"]) == ("deleted", "a/p", "info", "healer.x")
        assert (theirs["message"], theirs["level"]) == ("watching pods", "warning")
        assert ours["timestamp"].endswith("Z")

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        set_up(LogFormat.TEXT, LogLevel.WARNING)
        structlog.get_logger("healer.x").info("not shown")
        structlog.get_logger("healer.x").warning("the breaker is open", condemned=3)
        (line,) = capsys.readouterr().err.splitlines()
        assert "the breaker is open" in line
        assert "condemned=3" in line

    def test_odd_values_do_not_break_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        set_up(LogFormat.JSON, LogLevel.INFO)
        structlog.get_logger("x").info("odd", value=Path("x"), reason=Reason.ORPHANED, some={1})
        assert json.loads(capsys.readouterr().err)["reason"] == "orphaned"

    @pytest.mark.parametrize("form", LogFormat)
    @pytest.mark.parametrize(("what", "odd"), STEERING.items(), ids=STEERING)
    def test_nothing_that_others_wrote_steers_a_terminal(
        self, form: LogFormat, what: str, odd: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """In a message, a field, its key, a value in a value, a library's arguments, a traceback and a stack."""
        set_up(form, LogLevel.INFO)
        log, text = structlog.get_logger("healer.x"), f"a{odd}b"
        log.info(text, pod=text, **{f"k{odd}": 1}, some=[text], where=Path(text), odd=Odd(odd))
        logging.getLogger(f"lib{odd}").warning("from %s", text, extra={f"e{odd}": text}, stack_info=True)
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("failed", pod=text)
            logging.getLogger("lib").exception("failed")
        lines = capsys.readouterr().err.split("\n")
        assert [line for line in lines if not line.isprintable()] == []
        whole = [line for line in lines if line and not line.startswith("  ")]
        assert len(whole) == 4, f"{what}: a line for each call, and what belongs to one is indented"

    @pytest.mark.parametrize("form", LogFormat)
    def test_a_traceback_shows_no_variables(self, form: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
        set_up(form, LogLevel.INFO)
        token = "".join(["s", "esame"])
        try:
            raise ValueError(f"{len(token)} characters")
        except ValueError:
            structlog.get_logger("x").exception("failed")
        said = capsys.readouterr().err
        assert "6 characters" in said
        assert "test_a_traceback_shows_no_variables" in said
        assert token not in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h00m"), (172800, "2d"), (-5, "-5s")],
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_printable() -> None:
    assert printable("é [red]") == "é [red]"
    assert printable("a\x1b\nb\u202e") == r"a\x1b\nb\u202e"


class TestTheEnd:
    """The process ends at once, and all is done that is registered for its end."""

    @pytest.mark.parametrize(("word", "code"), [("--version", 0), ("no-such-command", 2)])
    def test_what_is_registered_for_the_end_is_done(self, word: str, code: int) -> None:
        program = f"""
            import atexit, sys
            atexit.register(print, "tidied up")
            sys.argv = ["kpo-healer", "{word}"]
            from healer.cli import program
            program()
        """
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
        )
        assert ended.returncode == code
        assert ended.stdout.splitlines()[-1] == "tidied up"

    def test_nothing_is_freed_piece_by_piece(self) -> None:
        program = """
            import sys
            class Freed:
                def __del__(self): print("freed")
            kept = Freed()
            sys.argv = ["kpo-healer", "--version"]
            from healer.cli import program
            program()
        """
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
        )
        assert ended.stdout == f"kpo-healer {__version__}\n"
