"""Judging recorded proofs again: reading them out of a log, and showing what today's rules say of each."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from msgspec import Struct

from healer.cli.output import printable, write, write_data, write_table
from healer.config import Mode
from healer.model import rfc3339
from healer.reconcile.proof import Proof, UnusableProofError, as_data, of_line
from healer.reconcile.replay import Verdict, replay

STDIN = "-"


class Replayed(Struct, frozen=True):
    """The verdicts in the order of the log, and a sentence where a line was no proof that can be judged."""

    verdicts: tuple[Verdict, ...]
    trouble: str | None = None


def replayed(source: str, pod: str | None) -> Replayed:
    """Judge every proof of a file, or of standard input for `-`; only those about one Pod where it is named.

    Raises UnusableProofError where there is nothing to judge.
    """
    proofs: list[Proof] = []
    trouble: list[str] = []
    with _opened(source) as lines:
        for number, line in enumerate(lines, 1):
            try:
                found = of_line(line)
            except UnusableProofError as error:
                trouble.append(f"line {number} of {_name(source)}: {error}")
            else:
                proofs += [found] if found is not None and pod in (None, str(found.pod)) else []
    if not proofs:
        raise UnusableProofError(trouble[0] if trouble else _nothing(source, pod))
    more = f" (and {len(trouble) - 1} more lines)" if len(trouble) > 1 else ""
    return Replayed(tuple(map(replay, proofs)), f"{trouble[0]}{more}" if trouble else None)


def _opened(source: str) -> Any:
    """Return the lines of the file; bytes that are no text spoil only their own line."""
    if source == STDIN:
        return nullcontext(_read(sys.stdin))
    try:
        return Path(source).open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UnusableProofError(
            f"{source} can't be read ({error.strerror}): give a log file, or - for stdin"
        ) from None


def _read(stream: TextIO) -> Iterator[str]:
    yield from stream


def _name(source: str) -> str:
    return "standard input" if source == STDIN else source


def _nothing(source: str, pod: str | None) -> str:
    what = f"no proof about {pod}" if pod else "no proof"
    return f"{_name(source)} holds {what}: give kpo-healer's log in JSON, whose decision lines are proofs"


def show(verdicts: Sequence[Verdict], form: str) -> None:
    """Print the verdicts: each in full where there is one, else a table, and below it those that disagree."""
    if form != "table":
        write_data([_data(verdict) for verdict in verdicts], form)
        return
    if len(verdicts) == 1:
        _show_one(verdicts[0])
        return
    write_table(("decided", "pod", "then", "today", "verdict"), map(_row, verdicts))
    disagreeing = [verdict for verdict in verdicts if not verdict.agrees]
    for verdict in disagreeing:
        write(f"\n{printable(verdict.sentence)}")
    write(f"\nToday's rules agree with {len(verdicts) - len(disagreeing)} of {len(verdicts)} decisions.")


def _row(verdict: Verdict) -> Sequence[object]:
    proof = verdict.proof
    when, agrees = rfc3339(proof.clocks.server), "agrees" if verdict.agrees else "disagrees"
    return when, proof.pod, proof.reason.value, verdict.finding.reason.value, agrees


def _show_one(verdict: Verdict) -> None:
    proof = verdict.proof
    did = "DELETE was decided" if proof.mode is Mode.ENFORCE else "DELETE would have been decided (report mode)"
    versions = f"kpo-healer {proof.versions.healer}, Airflow {proof.versions.airflow or 'of a version not known'}"
    write(f"Pod {printable(str(proof.pod))}, uid {printable(proof.pod.uid)}")
    write(f"  {did} at {rfc3339(proof.clocks.server) or 'a time not known'} by {printable(versions)}")
    write(f"  then        {proof.reason}: {printable(proof.detail)}")
    write(f"  today       {verdict.finding.reason}: {verdict.finding.detail}\n")
    write("\nRules, in the order in which they are tried")
    write_table(("", "rule", "because"), [("yes" if s.matched else "no", s.reason.value, s.why) for s in verdict.steps])
    write("\nWhat else a deletion needs")
    write_table(("", "what", "because"), [("ok" if c.holds else "fail", c.name, c.why) for c in verdict.checks])
    write(f"\n{printable(verdict.sentence)}")


def _data(verdict: Verdict) -> dict[str, Any]:
    return {
        "agrees": verdict.agrees,
        "verdict": verdict.sentence,
        "today": {"reason": verdict.finding.reason.value, "detail": verdict.finding.detail},
        "rules": [{"reason": s.reason.value, "matched": s.matched, "why": s.why} for s in verdict.steps],
        "checks": [{"name": c.name, "holds": c.holds, "why": c.why} for c in verdict.checks],
        "proof": as_data(verdict.proof),
    }
