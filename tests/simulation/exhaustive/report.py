"""The figures of the walks, as Markdown; a violation as a story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from tests.simulation.exhaustive.scenes import Scene
from tests.simulation.exhaustive.walk import Report, Theme


class Made(Struct, frozen=True):
    """A walk that was made: from where, with what, and what it came to."""

    scene: Scene
    theme: Theme
    report: Report


def markdown(made: Sequence[Made]) -> str:
    """Return all figures as Markdown."""
    return "\n".join((*_summary(made), "", *_walks(made), "", *_events(made), "", *_deletions(made)))


def _summary(made: Sequence[Made]) -> Iterable[str]:
    reports = [each.report for each in made]
    seconds = sum(report.seconds for report in reports)
    transitions = sum(report.transitions for report in reports)
    yield (
        f"{sum(report.states for report in reports):,} distinct states and {transitions:,} transitions in "
        f"{seconds:,.0f} s of one core ({transitions / max(seconds, 0.001):,.0f} a second); "
        f"violations: {sum(report.violation is not None for report in reports)}"
    )


def _walks(made: Sequence[Made]) -> Iterable[str]:
    yield "| from | what may happen | events before | depth | states | transitions | looked at to the end | s |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for each in made:
        report = each.report
        depth = f"{report.depth}{' (time was over)' if report.left else ''}"
        figures = f"{report.states:,} | {report.transitions:,} | {report.checked:,} | {report.seconds:,.0f}"
        yield f"| {each.scene.name} | {each.theme.name} | {len(each.scene.before)} | {depth} | {figures} |"


def _events(made: Sequence[Made]) -> Iterable[str]:
    yield from _counts("events", sum((each.report.groups for each in made), Counter[str]()))


def _deletions(made: Sequence[Made]) -> Iterable[str]:
    yield from _counts("DELETEs sent", sum((each.report.deletions for each in made), Counter[str]()))


def _counts(title: str, counts: Counter[str]) -> Iterable[str]:
    yield f"| {title} | how often |"
    yield "| --- | ---: |"
    yield from (f"| {name} | {number:,} |" for name, number in sorted(counts.items()))


def story(each: Made) -> str:
    """Tell how a violation came about."""
    steps = [f"  {number:2}. {words}" for number, words in enumerate(each.report.story, 1)]
    begin = f"It begins with: {each.scene.words}. The task: {each.scene.setup}"
    return "\n".join((f"VIOLATION: {each.report.violation}", begin, *steps))
