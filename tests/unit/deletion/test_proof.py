"""Proofs: each decision writes one, it holds all that it rests on, and judging it again finds the same."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from msgspec.structs import replace
from structlog.testing import capture_logs

from healer import __version__
from healer.decision.quarantine import Now, Suspect
from healer.decision.rules import RuleOptions, judge
from healer.deletion.decision_record import SCHEMA, DecisionRecord, as_data, build, parse_line
from healer.deletion.replay import replay
from healer.deletion.steps import Confirmed
from healer.errors import InvalidRecordError
from healer.model import Action, Answer, Finding, Pod, RunDeleted
from tests.unit.cli_world import Outcome, kpo_healer, undisturbed_logging
from tests.unit.fakes import PROMPT, RUNNING, World, an_airflow
from tests.unit.strategies import (
    CREATED,
    DAG_ID,
    NO_SOURCE,
    RUN_ID,
    a_done_pod,
    a_pod,
    a_sibling,
    a_task,
    ended,
    judged,
    known,
    naming,
)

AT_ONCE = {**PROMPT, "retention": {"succeeded": "0s", "failed": "0s", "kept": "0s", "purged": "0s"}}
EVERYTHING = dict.fromkeys(("abandoned", "task-removed", "run-deleted", "purged"), "delete")
ENDED = ended(end_date=None)

RECORDED = Path(__file__).parents[1] / "proofs" / "schema-1.log"
"""What was logged when this schema was new. It must be readable as long as the schema is."""

CASES: Mapping[str, tuple[Answer, dict[str, Any]]] = {
    "orphaned": (known(ENDED, NO_SOURCE), {}),
    "finished": (known(ENDED, NO_SOURCE), {"phase": "Succeeded"}),
    "kept": (known(a_task("queued", 2)), {"phase": "Succeeded", "checked": True}),
    "abandoned": (known(a_task("up_for_retry")), {"checked": True}),
    "task-removed": (known(a_task("removed")), {}),
    "run-deleted": (RunDeleted(0.0, DAG_ID, RUN_ID), {}),
    "purged": (RunDeleted(0.0, DAG_ID, RUN_ID), {"phase": "Failed"}),
}
"""Answers, and Pods, that lead to each reason to act but one."""


def line(proof: DecisionRecord, **changes: Any) -> str:
    """Return a proof as a line of its own, with changes to its top."""
    return json.dumps(as_data(proof) | changes)


def recorded(proof: DecisionRecord) -> DecisionRecord:
    """Return a proof as it comes out of a log."""
    read = parse_line(line(proof))
    assert read is not None
    return read


def made(
    pod: Pod,
    answer: Answer,
    terms: RuleOptions | None = None,
    *,
    now: Now = Now(3600.0, CREATED + 1_000_000),  # noqa: B008 - frozen
    sent: float = 3599.0,
) -> DecisionRecord:
    """Prove a decision about a Pod, an hour after it was first seen, by a policy with the default patience."""
    finding = judge(pod, answer, terms)
    foreign = sorted((terms or RuleOptions()).foreign_operators)
    grace = f"{(terms or RuleOptions()).grace}s"
    airflow = an_airflow(policy={"foreignOperators": foreign, "grace": grace, "actions": EVERYTHING})
    suspect = Suspect(pod, finding, Action.DELETE, since=0.0, due=0.0, sightings=2)
    case = Confirmed(suspect, pod, replace(answer, sent=sent), finding)
    return build(airflow, case, version="3.3.2", freshness=15.0, now=now)


def decisions(world: World, act: Callable[[], object]) -> list[Mapping[str, Any]]:
    """Return the decisions that were logged meanwhile."""
    with capture_logs() as logs:
        act()
    return [{**entry, "proof": as_data(entry["proof"])} for entry in logs if entry["event"] == "decision"]


# --- each decision writes one -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", CASES)
def test_each_decision_is_written_before_its_delete_and_judged_again_alike(reason: str) -> None:
    answer, changes = CASES[reason]
    world = World(policy={**AT_ONCE, "actions": EVERYTHING})
    world.pod("a", answer, **changes)
    sent: list[str] = []
    world.cluster.at_delete = lambda pod: sent.append(pod.uid)
    found = decisions(world, world.audit)
    assert sent == ["a"]
    assert [(e["pod"], e["uid"], e["reason"], e["act"]) for e in found] == [("airflow/pod-a", "a", reason, "delete")]
    proof = parse_line(json.dumps({"message": "decision", **found[0]}))
    assert proof is not None
    assert (proof.versions.healer, proof.versions.airflow, proof.schema) == (__version__, "3.3.2", SCHEMA)
    assert replay(proof).agrees, replay(proof).sentence


@pytest.mark.parametrize(("wish", "agrees"), [(None, True), (86400.0, True), (20 * 86400.0, False), (-1.0, False)])
def test_an_annotation_of_the_retention_counts_when_it_is_judged_again(wish: float | None, agrees: bool) -> None:
    pod = a_done_pod(retention=wish)
    proof = recorded(made(pod, known(ENDED, NO_SOURCE)))
    assert proof.pod.retention == wish
    assert proof.terms.retention_longest == 30 * 86400.0
    assert replay(proof).agrees is agrees


def test_a_record_from_before_the_annotation_was_read_agrees_as_ever() -> None:
    data = json.loads(line(made(a_done_pod(), known(ENDED, NO_SOURCE))))
    del data["terms"]["retention_longest"], data["by"]
    data["pod"].pop("retention", None)
    read = parse_line(json.dumps(data))
    assert read is not None
    assert (read.pod.retention, read.terms.retention_longest, read.by) == (None, 0.0, "controller")
    assert replay(read).agrees


def test_a_superseded_twin_is_proven_by_its_living_sibling() -> None:
    world = World(policy=AT_ONCE)
    sibling = a_sibling(created=world.clock.server - 5000)
    world.pod("a", known(a_task("running", 2), naming(sibling)))
    world.cluster.add(sibling)
    world.airflow.answers[sibling.uid] = known(a_task("running", 2))
    (found,) = decisions(world, world.audit)
    proof = parse_line(json.dumps(found))
    assert proof is not None
    assert (proof.reason, proof.answer.siblings) == ("superseded", (sibling,))  # type: ignore[attr-defined]
    assert replay(proof).agrees
    without = replay(replace(proof, airflow_said=replace(proof.airflow_said, siblings=())))
    assert not without.agrees
    assert "adoption-unknown" in without.sentence


def test_report_mode_writes_one_for_each_confirmation() -> None:
    world = World(policy=AT_ONCE, mode="report")
    world.pod("a")
    (found,) = decisions(world, lambda: (world.audit(), world.run(), world.run()))
    assert found["act"] == "would delete"
    proof = parse_line(json.dumps(found))
    assert proof is not None
    assert replay(proof).agrees
    assert "report mode" in replay(proof).sentence


def test_what_was_not_confirmed_is_no_decision() -> None:
    world = World(policy=AT_ONCE)
    world.pod("a")
    world.airflow.at_ask = lambda _: world.airflow.answers.update(a=RUNNING)
    assert decisions(world, world.audit) == []


def test_patience_is_counted_by_the_clocks_of_then() -> None:
    world = World(policy={"grace": "5m", "minAge": "10m"})
    world.pod("a", age=60.0)
    (found,) = decisions(world, lambda: world.live(1200))
    proof = parse_line(json.dumps(found))
    assert proof is not None
    assert replay(proof).agrees
    assert not replay(replace(proof, clocks=replace(proof.clocks, suspected=290.0, server=CREATED))).agrees


# --- it holds all that it rests on ------------------------------------------------------------------------------------


@given(judged())
def test_what_was_judged_is_found_again_whatever_it_was(case: tuple[Pod, Answer, RuleOptions]) -> None:
    pod, answer, terms = case
    finding: Finding = judge(pod, answer, terms)
    if finding.reason.action is Action.KEEP:
        return
    again = replay(recorded(made(pod, answer, terms)))
    assert again.finding == finding
    assert again.steps[-1].reason is finding.reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pod": a_pod(protected=True)}, "today it is protected"),
        ({"pod": a_pod(owner_label="other")}, "stamped for other, is not Airflow default's"),
        ({"pod": a_pod(selected=False)}, "is not Airflow default's"),
        ({"pod": a_pod(namespace="elsewhere")}, "is not Airflow default's"),
        ({"answer": known(a_task("running"))}, "today it is in-use (task instance is running at try 1"),
        ({"now": Now(60.0, CREATED + 1_000_000)}, "patience was over 60 s after the decision"),
        ({"now": Now(3600.0, CREATED + 5)}, "patience was over 115 s after the decision"),
        ({"now": Now(3600.0, None)}, "it can't be told when its patience was over"),
        ({"now": Now(3700.0, CREATED + 1_000_000)}, "100.0 s old, and 15 s were allowed"),
    ],
)
def test_what_speaks_against_a_decision_is_said(change: dict[str, Any], said: str) -> None:
    pod, answer = a_pod(), known(ended(), NO_SOURCE)
    proof = made(pod, answer)
    if "now" in change:
        proof = made(pod, answer, now=change["now"], sent=min(3600.0, change["now"].ours))
    if "pod" in change:
        proof = replace(proof, pod=change["pod"])
    if "answer" in change:
        proof = replace(made(pod, change["answer"]), reason=proof.reason)
    verdict = replay(recorded(proof))
    assert not verdict.agrees
    assert said in verdict.sentence


def test_one_look_is_not_enough_where_two_were_wanted() -> None:
    verdict = replay(replace(made(a_pod(), known(ended(), NO_SOURCE)), sightings=1))
    assert not verdict.agrees
    assert "it was seen 1 times, and 2 were wanted" in verdict.sentence


def test_a_proof_of_the_first_schema_is_readable() -> None:
    proofs = [proof for text in RECORDED.read_text().splitlines() if (proof := parse_line(text))]
    assert {proof.reason.value for proof in proofs} >= {"orphaned", "finished", "run-deleted"}
    assert all(replay(proof).agrees for proof in proofs)


# --- on the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run `explain --proof` on a text: no configuration, no server."""

    def run(text: str, *more: str) -> Outcome:
        (tmp_path / "healer.log").write_text(text)
        with undisturbed_logging():
            return kpo_healer(capsys, "explain", "--proof", str(tmp_path / "healer.log"), *more)

    return run


GOOD = line(made(a_pod(), known(ended(), NO_SOURCE)))
OTHER = line(made(a_done_pod(name="load-2"), known(ended(), NO_SOURCE)))
BAD = line(replace(made(a_pod(name="load-3"), known(ended(), NO_SOURCE)), sightings=1))


def test_one_proof_is_shown_in_full(explain: Any) -> None:
    outcome = explain(GOOD)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Today's rules agree with deleting airflow/load-1 as orphaned." in outcome.out
    for word in ("orphaned", "terminating", "freshness", "patience", "Airflow 3.3.2", __version__):
        assert word in outcome.out


def test_disagreement_is_told_in_words_and_by_the_exit_code(explain: Any) -> None:
    outcome = explain(BAD)
    assert outcome.code == 1
    assert "Today's rules disagree" in outcome.out


def test_a_whole_log_is_judged_line_by_line(explain: Any) -> None:
    noise = 'Traceback (most recent call last):\n{"message": "started"}\n\n{"message": "delete", "result": "deleted"}'
    prefixed = f"[pod/healer-1/healer] {json.dumps({'message': 'decision', 'proof': json.loads(OTHER)})}"
    outcome = explain(f"{noise}\n{GOOD}\n{prefixed}\n{BAD}\n")
    assert outcome.code == 1
    assert "agree with 2 of 3 decisions" in outcome.out
    assert outcome.out.count("Today's rules disagree") == 1


@pytest.mark.parametrize("more", [("--pod", "airflow/load-2"), ("airflow/load-2",)])
def test_one_pod_of_a_log(explain: Any, more: tuple[str, ...]) -> None:
    outcome = explain(f"{GOOD}\n{OTHER}\n{BAD}", *more, "-o", "json")
    assert outcome.code == 0
    (told,) = json.loads(outcome.out)
    assert (told["agrees"], told["today"]["reason"], told["proof"]["pod"]["name"]) == (True, "finished", "load-2")


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(GOOD))
    with undisturbed_logging():
        assert kpo_healer(capsys, "explain", "--proof", "-").code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no proof: give kpo-healer's log in JSON"),
        ("hello\n", "holds no proof"),
        ('{"message": "started"}', "holds no proof"),
        (GOOD[:-30], "line 1 of {file}: the line is cut off or damaged"),
        (f'{{"message": "decision", "proof": {GOOD[:500]}', "the line is cut off or damaged"),
        (GOOD.replace('"schema": 1', '"schema": 7'), f"schema 7 and this kpo-healer knows schema {SCHEMA}"),
        (GOOD.replace('"schema": 1', '"schema": "1"'), "this is no proof that kpo-healer wrote"),
        (GOOD.replace('"orphaned"', '"bored"'), "this is no proof that kpo-healer wrote"),
        (GOOD.replace('"grace": 120.0', '"grace": -1.0'), "this is no proof that kpo-healer wrote"),
        ('{"schema": 1}', "this is no proof that kpo-healer wrote"),
        ('{"proof": null}', "this is no proof that kpo-healer wrote"),
        (f"{GOOD}\n{OTHER[:-1]}", "line 2 of {file}: the line is cut off"),
    ],
)
def test_what_is_no_proof_is_told_in_one_sentence(explain: Any, tmp_path: Path, text: str, said: str) -> None:
    outcome = explain(text)
    assert outcome.code == 2
    assert said.format(file=tmp_path / "healer.log") in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_file_that_is_not_there_and_a_pod_that_is_not_in_it(explain: Any, capsys: Any) -> None:
    assert "holds no proof about airflow/nobody" in explain(GOOD, "--pod", "airflow/nobody").err
    outcome = kpo_healer(capsys, "explain", "--proof", "/no/such/file")
    assert (outcome.code, outcome.out) == (2, "")
    assert "/no/such/file can't be read (No such file or directory)" in outcome.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--config", "config.yaml"), "--proof asks nobody: leave --config away"),
        (("--from", "http://h"), "give one of them"),
    ],
)
def test_what_means_nothing_beside_a_proof_is_refused(explain: Any, more: tuple[str, ...], said: str) -> None:
    outcome = explain(GOOD, *more)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err


def test_a_pod_is_needed_where_there_is_no_proof(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    flags = ("--airflow-url", "http://h", "-n", "airflow", "--airflow-token-file", str(tmp_path / "token"))
    with undisturbed_logging():
        outcome = kpo_healer(capsys, "explain", *flags)
    assert (outcome.code, "which Pod?" in outcome.err) == (2, True)


def test_only_these_facts_are_ever_written() -> None:
    """No env, args, images, annotations or volumes: a new field of Pod has to be thought about."""
    data = as_data(made(a_pod(), known(ended(), NO_SOURCE)))
    assert set(data["pod"]) <= {
        *("namespace", "name", "uid", "resource_version", "created", "phase", "labels", "containers", "terminating"),
        *("protected", "owned", "checked", "restart_never", "stamp", "selected", "cpu_cores", "memory_bytes"),
        *("raw", "extended", "airflow_version", "ends", "waiting", "ended"),
        *("owner_labels", "retention"),
    }
    assert set(data["pod"]["containers"][0]) <= {"name", "terminated", "exit_code", "finished_at"}


def test_an_unusable_line_among_others_has_its_own_sentence() -> None:
    with pytest.raises(InvalidRecordError, match="cut off"):
        parse_line(GOOD[:200] + '"airflow_said":')
