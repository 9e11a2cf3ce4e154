"""Judging recorded proofs again: reading them out of a log, and showing what today's rules say of each."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from msgspec import Struct

from healer.cli.output import write, write_data, write_prose, write_table
from healer.config import Mode
from healer.deletion.decision_record import DecisionRecord, as_data, parse_line
from healer.deletion.replay import ReplayResult, replay
from healer.errors import InvalidRecordError
from healer.model import printable, rfc3339
from healer.redaction import shown

STDIN = "-"


class Replayed(Struct, frozen=True):
    """The verdicts in the order of the log, and a sentence where a line was no proof that can be judged."""

    verdicts: tuple[ReplayResult, ...]
    trouble: str | None = None


def replayed(source: str, pod: str | None) -> Replayed:
    """Judge every proof of a file, or of standard input for `-`; only those about one Pod where it is named.

    Raises UnusableProofError where there is nothing to judge.
    """
    records: list[DecisionRecord] = []
    trouble: list[str] = []
    with _opened(source) as lines:
        for number, line in enumerate(lines, 1):
            try:
                found = parse_line(line)
            except InvalidRecordError as error:
                trouble.append(f"line {number} of {_name(source)}: {error}")
            else:
                records += [found] if found is not None and pod in (None, str(found.pod)) else []
    if not records:
        raise InvalidRecordError(trouble[0] if trouble else _nothing(source, pod))
    more = f" (and {len(trouble) - 1} more lines)" if len(trouble) > 1 else ""
    return Replayed(tuple(map(replay, records)), f"{trouble[0]}{more}" if trouble else None)


def _opened(source: str) -> Any:
    """Return the lines of the file; bytes that are no text spoil only their own line."""
    if source == STDIN:
        return nullcontext(_read(sys.stdin))
    try:
        return Path(source).open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidRecordError(
            f"{shown(source)} can't be read ({error.strerror}): give a log file, or - for stdin"
        ) from None


def _read(stream: TextIO) -> Iterator[str]:
    yield from stream


def _name(source: str) -> str:
    return "standard input" if source == STDIN else shown(source)


def _nothing(source: str, pod: str | None) -> str:
    what = f"no proof about {pod}" if pod else "no proof"
    return f"{_name(source)} holds {what}: give kpo-healer's log in JSON, whose decision lines are proofs"


def show(results: Sequence[ReplayResult], form: str) -> None:
    """Print the verdicts: each in full where there is one, else a table, and below it those that disagree."""
    if form != "table":
        write_data([_data(result) for result in results], form)
        return
    if len(results) == 1:
        _show_one(results[0])
        return
    write_table(("decided", "pod", "then", "today", "verdict"), map(_row, results))
    disagreeing = [result for result in results if not result.agrees]
    for result in disagreeing:
        write_prose(f"\n{printable(result.sentence)}")
    write_prose(f"\nToday's rules agree with {len(results) - len(disagreeing)} of {len(results)} decisions.")


def _row(result: ReplayResult) -> Sequence[object]:
    record = result.proof
    when, agrees = rfc3339(record.clocks.server), "agrees" if result.agrees else "disagrees"
    return when, record.pod, record.reason.value, result.finding.reason.value, agrees


def _show_one(result: ReplayResult) -> None:
    record = result.proof
    did = "DELETE was decided" if record.mode is Mode.ENFORCE else "DELETE would have been decided (report mode)"
    versions = f"kpo-healer {record.versions.healer}, Airflow {record.versions.airflow or 'of a version not known'}"
    write_prose(f"Pod {printable(str(record.pod))}, uid {printable(record.pod.uid)}")
    write_prose(f"  {did} at {rfc3339(record.clocks.server) or 'a time not known'} by {printable(versions)}")
    write_prose(f"  then        {record.reason}: {printable(record.detail)}")
    write_prose(f"  today       {result.finding.reason}: {result.finding.detail}\n")
    write("\nRules, in the order in which they are tried")
    write_table(("", "rule", "because"), [("yes" if s.matched else "no", s.reason.value, s.why) for s in result.steps])
    write("\nWhat else a deletion needs")
    write_table(("", "what", "because"), [("ok" if c.holds else "fail", c.name, c.why) for c in result.checks])
    write_prose(f"\n{printable(result.sentence)}")


def _data(result: ReplayResult) -> dict[str, Any]:
    return {
        "agrees": result.agrees,
        "verdict": result.sentence,
        "today": {"reason": result.finding.reason.value, "detail": result.finding.detail},
        "rules": [{"reason": s.reason.value, "matched": s.matched, "why": s.why} for s in result.steps],
        "checks": [{"name": c.name, "holds": c.holds, "why": c.why} for c in result.checks],
        "proof": as_data(result.proof),
    }
