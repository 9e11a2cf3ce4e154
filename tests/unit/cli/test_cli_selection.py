"""What `scan` leaves out, in which order it shows the rest, in which forms, and who wastes what."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import click
import pytest
import yaml
from click.shell_completion import ShellComplete
from rich.cells import cell_len

from healer.cli import cli, complete
from healer.cli.findings import due_in, task_of
from healer.cli.help import COMMON, EXAMPLES, IDLE
from healer.cli.oneshot import what_it_is
from healer.cli.output import Shrink, cut, folded, write_csv
from healer.cli.selection import SORTS, Selection, by_dag, parse_selector
from healer.cli.summary import held
from healer.cli.watch import keep_due_times
from healer.cluster.pods import decode_unmet
from healer.config import Config
from healer.model import SELECTOR
from tests.docs.generated import leaf_commands
from tests.unit.cli_world import Answer, Outcome, Seen, World, answer, kpo_healer, kubernetes, serving, world
from tests.unit.cluster_server import page, raw_pod

pytestmark = pytest.mark.usefixtures("own_logging")

NOW = 1_769_818_000.0  # 2026-01-31T00:06:40Z


def finding(pod: str, **changes: Any) -> dict[str, Any]:
    return {
        "namespace": "a",
        "pod": pod,
        "uid": f"uid-{pod}",
        "airflow": "prod",
        "task": None,
        "labels": {"dag_id": "etl", "task_id": "load", "try_number": "1"},
        "reason": "orphaned",
        "action": "delete",
        "withheld": "not-due",
        "detail": "it has ended",
        "since": None,
        "due": "2026-01-31T00:08:40Z",
        "created": "2026-01-30T00:00:00Z",
        "holds": {"cpu_cores": 1.0, "memory_bytes": 1 << 30, "extended": {}, "since": "2026-01-30T23:00:00Z"},
        "cause": None,
        "notices": [],
    } | changes


FOUND = [
    finding("kept", action="keep", reason="in-use", due=None, holds=None),
    finding("big", holds={"cpu_cores": 8, "memory_bytes": 2 << 30, "extended": {"nvidia.com/gpu": 2}, "since": None}),
    finding("other", labels={"dag_id": "=cmd()", "task_id": "t", "map_index": "3"}, reason="superseded"),
    finding("old", created="2026-01-01T00:00:00Z", due="2026-01-31T00:07:00Z"),
]


def scanned(capture: pytest.CaptureFixture[str], *words: str) -> Outcome:
    def script(seen: Seen) -> Answer:
        return Answer(200, [] if seen.path.startswith("/notices") else FOUND)

    with serving(script) as server:
        return kpo_healer(capture, "scan", *words, "--from", f"http://127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("words", "pods"),
    [
        ((), ["big", "old", "other"]),
        (("--all",), ["big", "old", "other", "kept"]),
        (("--reason", "superseded"), ["other"]),
        (("--reason", "superseded", "--reason", "in-use", "--all"), ["other", "kept"]),
        (("--dag", "etl"), ["big", "old"]),
        (("--dag", "=cmd()", "--dag", "nobody"), ["other"]),
        (("-l", "dag_id=etl"), ["big", "old"]),
        (("-l", "dag_id!=etl"), ["other"]),
        (("-l", "map_index"), ["other"]),
        (("--selector", "!map_index,task_id==load"), ["big", "old"]),
        (("--sort-by", "cpu"), ["big", "old", "other"]),
        (("--sort-by", "age"), ["old", "big", "other"]),
        (("--sort-by", "due"), ["old", "big", "other"]),
        (("--sort-by", "reason"), ["big", "old", "other"]),
        (("--sort-by", "dag"), ["other", "big", "old"]),
    ],
)
def test_only_what_is_asked_for_in_the_order_asked_for(
    words: tuple[str, ...], pods: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = scanned(capsys, *words, "-o", "name")
    assert outcome.out.splitlines() == [f"a/{pod}" for pod in pods]
    assert (outcome.code, outcome.err) == (1, "")
    for form, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert [each["pod"] for each in load(scanned(capsys, *words, "-o", form).out)] == pods


def test_what_is_left_out_does_not_count_as_found(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = scanned(capsys, "--dag", "nobody")
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--reason", "orphand"), "error: '--reason': use one of "),
        (("--sort-by", "size"), "error: '--sort-by': use one of pod, reason, dag, age, due, cpu, memory: see"),
        (("-l", "dag_id>3"), "error: --selector: is no selector: write it like dag_id=etl,task_id!=load: see"),
        (("-l", "dagid=etl"), "error: --selector: a finding has no such label: did you mean dag_id?: see"),
        (("--by", "dag", "-o", "name"), "error: --by shows DAGs: leave --notices and --output wide or name away: see"),
    ],
)
def test_what_can_not_be_asked_for(words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = scanned(capsys, *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(sentence)
    assert outcome.err.endswith("see kpo-healer scan --help\n")
    assert outcome.err.count("\n") == 1


def test_csv_is_for_a_spreadsheet_and_starts_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(scanned(capsys, "-o", "csv").out)))
    big, _, other = rows
    assert (big["pod"], big["cpu_cores"], big["memory_bytes"]) == ("big", "8", str(2 << 30))
    assert (big["extended"], big["created"], big["dag"]) == ("nvidia.com/gpu=2", "2026-01-30T00:00:00Z", "etl")
    assert (other["dag"], other["withheld"]) == ("'=cmd()", "not-due")


def test_who_wastes_what(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = json.loads(scanned(capsys, "--by", "dag", "-o", "json").out)
    assert first == {
        "dag_id": "etl",
        "pods": 2,
        "holds": {"cpu_cores": 9.0, "memory_bytes": float(3 << 30), "extended": {"nvidia.com/gpu": 2.0}},
        "oldest": "2026-01-30T23:00:00Z",
        "reasons": {"orphaned": 2},
    }
    assert (second["dag_id"], second["reasons"]) == ("=cmd()", {"superseded": 1})
    header, row, *_ = scanned(capsys, "--by", "dag").out.splitlines()
    assert header.split() == ["DAG", "PODS", "HOLDS", "OLDEST", "REASONS"]
    assert row.split()[:5] == ["etl", "2", "9cpu", "3Gi", "2gpu"]
    assert len(scanned(capsys, "--by", "dag", "-o", "csv").out.splitlines()) == 3


def test_nothing_is_wasted_by_nobody() -> None:
    assert by_dag([FOUND[0]]) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "in 2m"),
        ({"due": "2026-01-31T00:06:41Z"}, "in 1s"),
        ({"due": "2026-01-31T00:06:00Z", "withheld": None}, "now"),
        ({"due": "2026-01-31T00:06:00Z", "withheld": "breaker"}, "breaker"),
        ({"due": "2026-01-31T00:06:00Z", "withheld": "report-mode"}, "report"),
        ({"due": "2026-01-31T00:06:00Z", "withheld": None, "action": "report"}, "report"),
        ({"action": "keep"}, None),
        ({"due": None}, None),
    ],
)
def test_when_it_is_due(changes: dict[str, Any], said: str | None) -> None:
    assert due_in(finding("p", **changes), NOW) == said


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "etl.load"),
        ({"labels": {"dag_id": "etl", "task_id": "load", "map_index": "0"}}, "etl.load[0]"),
        ({"task": {"dag_id": "Etl", "task_id": "Load", "map_index": -1}}, "Etl.Load"),
        ({"labels": {}}, None),
        ({"labels": {"task_id": "load"}}, "?.load"),
    ],
)
def test_a_task_is_named_by_labels_where_airflow_has_none(changes: dict[str, Any], name: str | None) -> None:
    assert task_of(finding("p", **changes)) == name


@pytest.mark.parametrize(
    ("holds", "words"),
    [
        (None, None),
        ({"cpu_cores": 0, "memory_bytes": 0, "extended": {}}, None),
        ({"cpu_cores": 0.25, "memory_bytes": 256 << 20}, "250m 256Mi"),
        ({"cpu_cores": 2, "memory_bytes": 3 << 29, "extended": {"nvidia.com/gpu": 1}}, "2cpu 1.5Gi 1gpu"),
    ],
)
def test_what_a_pod_holds_in_few_words(holds: Any, words: str | None) -> None:
    assert held(holds) == words


def test_a_due_time_comes_nearer_from_look_to_look() -> None:
    known: dict[str, tuple[str, str]] = {}
    first, second = [finding("p", due="2026-01-31T00:08:00Z")], [finding("p", due="2026-01-31T00:09:00Z")]
    keep_due_times(first, known)
    keep_due_times(second, known)
    assert second[0]["due"] == "2026-01-31T00:08:00Z"
    changed = [finding("p", due="2026-01-31T00:10:00Z", reason="superseded")]
    keep_due_times(changed, known)
    assert changed[0]["due"] == "2026-01-31T00:10:00Z", "another reason begins its patience anew"
    keep_due_times([], known)
    assert known == {}


@pytest.mark.parametrize("width", range(1, 30))
@pytest.mark.parametrize("shrink", [Shrink.END, Shrink.MIDDLE])
def test_a_cut_text_fits_and_says_so(width: int, shrink: Shrink) -> None:
    for text in ("ingest-orders-x7k2p9qa", "任務名稱任務名稱任務名稱"):
        shown = cut(text, width, shrink)
        assert cell_len(shown) <= width
        assert shown == text or "…" in shown


def test_folded_lines_keep_their_words() -> None:
    text = "  reason      a sentence that is longer than its terminal, with https://example.com/a/long/address"
    lines = folded(text, 40, " " * 12).splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[1].startswith(" " * 14)
    assert "".join("".join(lines).split()) == "".join(text.split())


@pytest.mark.parametrize("width", [24, 33, 80])
@pytest.mark.parametrize("text", [f"  task of DAG {'任務' * 60} has ended", "  字 and 任務 " * 20, "  ｆｕ" * 40])
def test_a_folded_line_of_wide_characters_fits_its_columns(text: str, width: int) -> None:
    lines = folded(text, width, " " * 6).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(text.split())


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@x", "＝1", "＋1", "－1", "＠x"])
def test_no_cell_begins_a_formula(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(["dag"], [[text], [-1.5]])
    assert capsys.readouterr().out == f"dag\n'{text}\n-1.5\n"


def test_a_selection_of_nothing_is_everything() -> None:
    assert len(Selection().of(FOUND)) == len(FOUND)
    assert parse_selector(" ") == ()


def test_the_command_offers_every_way_to_sort() -> None:
    (option,) = [each for each in cli.commands["scan"].params if each.name == "sort_by"]
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(SORTS)


# --- Help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_has_groups_defaults_and_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = kpo_healer(capsys, *name.split(), "--help").out
    parameters = dict(leaf_commands())[name].params
    shown = {each.name for each in parameters} - IDLE.get(name, frozenset())
    groups = COMMON if "config" in shown else ["Log"] if "log_level" in shown else []
    for title in ("Options:", *(f"{title}:" for title in groups), "Examples:", EXAMPLES[name][0]):
        assert title in text
    own = {option for each in parameters for option in each.opts if option.startswith("--")}
    for option in own:
        hidden = option.removeprefix("--").replace("-", "_") in IDLE.get(name, ())
        assert (f"{option} " in text or f"{option}\n" in text) is not hidden, option


def test_the_defaults_that_help_tells_are_those_of_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(kpo_healer(capsys, "run", "--help").out.split())
    for key in ("mode", "interval", "audit_interval", "freshness", "listen"):
        assert f"{Config.model_fields[key].default} by default" in text


def test_every_command_has_an_example() -> None:
    assert {name for name, _ in leaf_commands()} == set(EXAMPLES)


@pytest.mark.parametrize(
    ("words", "commands"), [((), "run, scan, "), (("token",), "google, mwaa: see kpo-healer token ")]
)
def test_a_command_that_is_none_is_answered_with_those_of_its_group(
    words: tuple[str, ...], commands: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = kpo_healer(capsys, *words, "nothing")
    assert outcome.code == 2
    assert f"No such command: use one of {commands}" in outcome.err


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_wrong_option_points_to_the_commands_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = kpo_healer(capsys, *name.split(), "--no-such-option")
    assert outcome.code == 2
    assert outcome.err.endswith(f": see kpo-healer {name} --help\n")


# --- Completion -------------------------------------------------------------------------------------------------------


def offered(made: World, *words: str) -> list[str]:
    given = ["--config", str(made.config()), "--kubeconfig", str(made.folder / "kubeconfig")]
    shell = ShellComplete(cli, {}, "kpo-healer", "_KPO_HEALER_COMPLETE")
    command, *rest, last = words
    return [item.value for item in shell.get_completions([command, *given, *rest], last)]


def with_namespaces(seen: Seen) -> Answer:
    if seen.path.partition("?")[0] == "/api/v1/namespaces":
        return answer(200, {"items": [{"metadata": {"name": name}} for name in ("airflow", "ops")] + [{}]})
    if seen.path.partition("?")[0].endswith("/namespaces/a/pods"):
        return answer(200, page(raw_pod(), raw_pod(name="other", uid="u2")))
    return kubernetes(seen)


def test_completion_knows_pods_namespaces_and_airflows(tmp_path: Any, capsys: Any) -> None:
    with world(tmp_path, capsys, cluster=with_namespaces) as made:
        assert offered(made, "explain", "") == ["a/other", "a/p"]
        assert offered(made, "explain", "a/o") == ["a/other"]
        assert offered(made, "delete", "a/o") == ["a/other"]
        assert offered(made, "explain", "b/") == []
        assert offered(made, "scan", "-n", "") == ["airflow", "ops"]
        assert offered(made, "release", "--airflow", "") == ["prod"]


def test_completion_says_nothing_where_nothing_answers(tmp_path: Any, capsys: Any) -> None:
    with world(tmp_path, capsys, cluster=lambda _: Answer(403, b"{}")) as made:
        assert offered(made, "explain", "") == []
        assert offered(made, "scan", "-n", "") == []
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["kubectl_complete-kpo_healer", "explain", "--config", "/nowhere", ""])
        complete()
    assert capsys.readouterr() == (":4\n", "")


# --- Explain ----------------------------------------------------------------------------------------------------------


def test_one_namespace_need_not_be_written(good: World) -> None:
    assert "Pod a/p" in good.run("explain", "p").out
    outcome = good.run("explain", "p", config=good.config(namespaces=["a", "b"]))
    assert outcome.code == 2
    assert "write NAMESPACE/POD" in outcome.err


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"airflow-worker": "7"}, "is a worker of Airflow's KubernetesExecutor"),
        ({"kubernetes_executor": "True"}, "is a worker of Airflow's KubernetesExecutor"),
        ({"spark_kubernetes_operator": "True"}, "belongs to a SparkKubernetesOperator"),
        ({"kubernetes_pod_operator": None}, "does not carry the labels of KubernetesPodOperator"),
    ],
)
def test_a_pod_that_is_not_the_operators_is_told_what_it_is(
    labels: dict[str, str | None], words: str, tmp_path: Any, capsys: Any
) -> None:
    every = raw_pod()["metadata"]["labels"] | labels
    pod = raw_pod(labels={name: value for name, value in every.items() if value is not None})

    def script(seen: Seen) -> Answer:
        return answer(200, pod) if seen.path.endswith("/pods/p") else kubernetes(seen)

    with world(tmp_path, capsys, cluster=script) as made:
        outcome = made.run("explain", "a/p")
    assert outcome.code == 2
    assert f"a/p {words}" in outcome.err
    assert outcome.err.endswith("it is left alone\n")


def test_what_is_no_pod_meets_nothing() -> None:
    assert decode_unmet(b"[") == SELECTOR
    assert what_it_is(()) == "does not carry the labels of KubernetesPodOperator"
