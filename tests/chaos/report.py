"""What a run of chaos says at its end, as Markdown."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import healer
from tests.chaos.audit_tail import Deletion
from tests.chaos.director import AT_ONCE, Director
from tests.chaos.memory import Trend
from tests.chaos.replicas import FRESHNESS, GRACE
from tests.chaos.traces import Refusal
from tests.chaos.verdict import Findings, adoptions, confirmed, delays, past_the_check


@dataclass(frozen=True)
class Outcome:
    """Everything a report is made of. seconds: of activity. stories: of each suspicion. refused: by the model.

    two: whether it is about an Airflow 2, of whose histories the model is not asked.
    """

    director: Director
    findings: Findings
    trends: Sequence[Trend]
    seconds: float
    versions: dict[str, str]
    stories: Sequence[str]
    traces: int
    refused: Sequence[Refusal]
    unexpected: Sequence[str]
    two: bool = False

    @property
    def excused(self) -> list[Deletion]:
        """DELETEs that were past their check when their replica was frozen."""
        freezes = {replica.user: replica.freezes for replica in self.director.stage.replicas.all}
        return past_the_check(self.findings.out_of_turn, freezes)

    @property
    def failures(self) -> list[str]:
        """Why this run is no success; empty when it is one."""
        found = self.findings
        lacking = self.director.lacking(fresh=True)
        told = {
            "wrong deletions": len(found.of("wrong")),
            "missed orphans": len(found.missed),
            "Pods used by a task after their deletion": len(found.used_later),
            "Pods deleted more than once": len(found.repeated),
            "deletions by a replica that did not hold the Lease": len(found.out_of_turn) - len(self.excused),
            "histories that the simulation's model holds impossible": len(self.refused),
            "replicas that crashed": sum("Traceback" in text for text in self.unexpected),
        }
        reasons = [f"{count} {what}" for what, count in told.items() if count]
        return reasons + [f"quota not met: {name} lacks {lack}" for name, lack in lacking.items()]


def markdown(outcome: Outcome) -> str:
    """The whole report."""
    parts = [_head(outcome), _verdict(outcome), _quotas(outcome), _deletions(outcome), _weather(outcome)]
    parts += [_memory(outcome), _left(outcome), _stories(outcome)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(outcome: Outcome) -> str:
    plan, counts = outcome.director.plan, outcome.director.counts(fresh=True)
    minutes = outcome.seconds / 60
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    airflow = outcome.director.stage.airflow
    call = f"RUNS={plan.runs} SEED={plan.seed}" + (f" AT_ONCE={plan.at_once}" if plan.at_once != AT_ONCE else "")
    title, call = "Chaos on real parts", f"make chaos {call}"
    if outcome.two:
        title, call = f"{title} of Airflow {airflow.version}", f"{call} AIRFLOW={airflow.version.rpartition('.')[0]}"
    return f"""# {title}

`{call}`, {datetime.now(UTC):%Y-%m-%d}: {counts["runs"]} task instances of \
KubernetesPodOperator really ran, with {counts["tries"]} Pods, in {minutes:.0f} minutes \
({counts["runs"] / minutes:.0f} a minute). {versions}, Python {platform.python_version()}, \
kpo-healer {healer.__version__} in {len(outcome.director.stage.replicas.all)} replica(s), enforce mode.

The seed decides which runs are started, what happens to them and what the weather is like; when something happens
depends on the machine, so that a seed does not replay a run exactly. The verdict comes from Airflow's own rows
(recorded by SQL triggers), from the Pods (a watch), from the API server's audit log and from KPO's task logs, never
from kpo-healer."""


def _verdict(outcome: Outcome) -> str:
    found = outcome.findings
    rows = {
        "deletions accepted by the API server": len(found.rulings),
        "of a Pod in use, or that could still be used": len(found.of("wrong")),
        "of a Pod that Airflow took back while the DELETE was on its way": len(found.of("raced")),
        "of a Pod that a task used afterwards, by KPO's logs": len(found.used_later),
        "of the same Pod twice": len(found.repeated),
        "sent by a replica that did not hold the Lease": len(found.out_of_turn) - len(outcome.excused),
        "sent by one that was frozen between its check and its send": len(outcome.excused),
        "refused by the API server (the Pod had changed or was gone)": len(found.refused),
        "Pods that went without a DELETE in the audit log (the API server was killed just then)": len(
            found.unaccounted
        ),
        "orphans and leftovers still there at the end": len(found.missed),
        "replicas that ended by themselves, with a sentence": len(outcome.unexpected),
    }
    if not outcome.two:
        rows |= {
            "histories given to the simulation's model": outcome.traces,
            "histories that it holds impossible": len(outcome.refused),
        }
    failures = outcome.failures
    result = "**Passed.**" if not failures else "**Failed:** " + "; ".join(failures) + "."
    return "\n\n".join(("## Verdict", result, _table(("what", "count"), rows.items()), _WINDOWS, _patience(outcome)))


_WINDOWS = f"""Airflow took a Pod back while the DELETE was on its way: the task instance had ended for longer than the
grace, and was cleared or started anew at most {FRESHNESS:g} s (`freshness`, the age that Airflow's answer may have)
before the API server received the DELETE. No try had adopted the Pod yet; the next one starts a new one. Kubernetes and
Airflow have no common lock, so this window can be made short, not closed."""


def _patience(outcome: Outcome) -> str:
    waits = delays(outcome.director.stage.picture, outcome.findings.rulings)
    if not waits:
        return ""
    quantiles = [waits[min(len(waits) - 1, int(len(waits) * share))] for share in (0.5, 0.95, 1.0)]
    median, late, last = (f"{seconds:.0f} s" for seconds in quantiles)
    return f"""From a task instance's end to the DELETE of its active Pod: {median} in the median, {late} at the 95th
percentile, {last} at most, of which {GRACE:g} s are the grace of this configuration; the rest is the interval and
whatever was down just then."""


def _quotas(outcome: Outcome) -> str:
    counts, quotas = outcome.director.counts(fresh=True), outcome.director.quotas()
    words = {
        "adopted": "Pods adopted by a later try",
        "cleared": "clears of ended tasks",
        "twins": "superseded twins deleted",
        "handed over": "deferrals handed over to a worker",
        "orphans": "real orphans (ended task, active Pod) deleted",
        "taken over": "take-overs between the replicas",
    }
    rows: list[tuple[object, ...]] = [(words[name], counts[name], quota) for name, quota in quotas.items()]
    stage = outcome.director.stage
    told = confirmed(adoptions(stage.picture), stage.airflow.root / "logs")
    rows.insert(1, ("of which KPO's own log tells too", told, ""))
    return "## What happened\n\n" + _table(("what", "count", "at least"), rows)


def _deletions(outcome: Outcome) -> str:
    return "## What was deleted\n\n" + _table(("what the Pod was", "count"), outcome.findings.kinds().items())


def _weather(outcome: Outcome) -> str:
    director = outcome.director
    played = Counter(scenario.name for scenario, _ in director.plays)
    scenarios = _table(
        ("scenario", "runs", "came to its end"),
        [(name, count, director.done[name]) for name, count in sorted(played.items())],
    )
    weather = _table(("event", "count"), sorted(director.weather.items()))
    return f"## What was done to it\n\n{scenarios}\n\n{weather}"


def _memory(outcome: Outcome) -> str:
    rows = [
        (t.replica, t.life, f"{t.minutes:.0f}", f"{t.first:.1f}", f"{t.last:.1f}", f"{t.peak:.1f}",
         _slope(t.slope), _slope(t.late), f"{t.threads[0]}-{t.threads[1]}")
        for t in outcome.trends
    ]  # fmt: skip
    slopes = "slope (MB/h)", "of the second half"
    head = ("replica", "life", "minutes", "RSS after warm-up (MB)", "at the end", "peak", *slopes, "threads")
    text = """The first replica is only ever frozen, so that it lives through the whole run; the other one is killed and
restarted too. Each life of two minutes or more is a row; the slope (least squares) is told from five minutes on. The
warm-up that is left out is ten minutes, or a quarter of a shorter life; of lives of half an hour and more the slope of
the second half stands beside it."""
    return f"## Memory and threads\n\n{text}\n\n" + _table(head, rows)


def _slope(figure: float | None) -> str:
    return "" if figure is None else f"{figure:+.2f}"


def _left(outcome: Outcome) -> str:
    reasons = Counter(why or "**missed**" for _, why in outcome.findings.left)
    if not reasons:
        return "## What was left\n\nNo Pod was left at the end."
    return "## What was left\n\n" + _table(("Pods left at the end, because", "count"), reasons.items())


def _stories(outcome: Outcome) -> str:
    stories = [f"```text\n{story}\n```" for story in outcome.stories]
    stories += [refusal_told(refusal) for refusal in outcome.refused[:20]]
    stories += [f"```text\n{text}\n```" for text in outcome.unexpected]
    return "## Stories\n\n" + "\n\n".join(stories) if stories else ""


def refusal_told(refusal: Refusal) -> str:
    """The history itself stands below the sentence: the files of a run are gone when it is over."""
    return f"```text\n{refusal.key}: {refusal.file}: {refusal.why}\n```\n\n```jsonl\n{refusal.lines.rstrip()}\n```"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])
