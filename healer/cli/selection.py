"""Which findings `scan` shows, in which order, and what each DAG wastes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from healer.cli.findings import FindingJson, dag_of, epoch, suspects
from healer.cli.output import Column, Shrink, age, write_csv, write_data, write_prose, write_table
from healer.cli.summary import held
from healer.config.fields import hint
from healer.model import Action

LABELS = ("dag_id", "task_id", "run_id", "map_index", "try_number")
"""The labels that a finding has, by which it can be selected."""

_TERM = re.compile(r"\s*(?P<not>!)?\s*(?P<key>[A-Za-z0-9_./-]+)\s*(?:(?P<op>==|!=|=)\s*(?P<value>[^,=!]*?))?\s*")


class Term(Struct, frozen=True):
    """One requirement of a selector. `values` is empty where only the label's presence counts."""

    key: str
    values: tuple[str, ...]
    wanted: bool

    def admits(self, labels: Mapping[str, Any]) -> bool:
        """Whether a Pod with these labels is selected."""
        value = labels.get(self.key)
        holds = str(value) in self.values if self.values and value is not None else value is not None
        return holds is self.wanted


class Selection(Struct, frozen=True):
    """What is asked for; what is empty leaves nothing out."""

    reasons: tuple[str, ...] = ()
    dags: tuple[str, ...] = ()
    terms: tuple[Term, ...] = ()
    sort_by: str | None = None

    def of(self, findings: Iterable[FindingJson]) -> list[FindingJson]:
        """Return the findings that are asked for, in order: suspects first, then by namespace and Pod."""
        kept = [finding for finding in findings if self._admits(finding)]
        kept.sort(key=lambda finding: (finding["action"] == Action.KEEP, finding["namespace"], finding["pod"]))
        if self.sort_by is not None:
            kept.sort(key=SORTS[self.sort_by])
        return kept

    def of_notices(self, notices: Iterable[FindingJson]) -> tuple[FindingJson, ...]:
        """Return the notices that are asked for: none has a reason or labels, so asking for these leaves them out."""
        if self.reasons or self.terms:
            return ()
        return tuple(notice for notice in notices if not self.dags or dag_of(notice) in self.dags)

    def _admits(self, finding: FindingJson) -> bool:
        if self.reasons and finding["reason"] not in self.reasons:
            return False
        if self.dags and dag_of(finding) not in self.dags:
            return False
        return all(term.admits(finding.get("labels") or {}) for term in self.terms)


def _held(finding: FindingJson, name: str) -> float:
    return -float((finding.get("holds") or {}).get(name) or 0)


def _moment(finding: FindingJson, name: str) -> float:
    known = epoch(finding.get(name))
    return float("inf") if known is None else known


SORTS: Mapping[str, Callable[[FindingJson], Any]] = MappingProxyType(
    {
        "pod": lambda finding: (finding["namespace"], finding["pod"]),
        "reason": lambda finding: finding["reason"],
        "dag": lambda finding: dag_of(finding) or "\U0010ffff",
        "age": lambda finding: _moment(finding, "created"),
        "due": lambda finding: _moment(finding, "due"),
        "cpu": lambda finding: _held(finding, "cpu_cores"),
        "memory": lambda finding: _held(finding, "memory_bytes"),
    }
)
"""What `--sort-by` takes: the oldest, the largest and the next due first."""


def parse_selector(text: str) -> tuple[Term, ...]:
    """Return the terms of a selector as kubectl writes it: `dag_id=etl,task_id!=load,map_index,!run_id`.

    Raises ValueError with a sentence.
    """
    return tuple(_term(part) for part in text.split(",")) if text.strip() else ()


def _term(part: str) -> Term:
    found = _TERM.fullmatch(part)
    if found is None or (found["not"] and found["op"]):
        raise ValueError("is no selector: write it like dag_id=etl,task_id!=load")
    key, value = found["key"], found["value"]
    if key not in LABELS:
        raise ValueError(f"a finding has no such label: {hint(key, LABELS)}")
    if found["op"] is None:
        return Term(key, (), wanted=not found["not"])
    return Term(key, (value,), wanted=found["op"] != "!=")


class Waste(Struct, frozen=True):
    """What the Pods of one DAG hold that nobody needs any more. `oldest` is RFC 3339, since when one is not needed."""

    dag: str | None
    pods: int
    holds: Mapping[str, Any]
    oldest: str | None
    reasons: Mapping[str, int]


def by_dag(findings: Iterable[FindingJson]) -> list[Waste]:
    """Return what each DAG wastes; who wastes most comes first, by cores, then memory, then Pods."""
    groups: dict[str | None, list[FindingJson]] = {}
    for finding in suspects(findings):
        groups.setdefault(dag_of(finding), []).append(finding)
    wastes = [_waste(dag, group) for dag, group in groups.items()]
    return sorted(wastes, key=lambda w: (-w.holds["cpu_cores"], -w.holds["memory_bytes"], -w.pods, w.dag or ""))


def _waste(dag: str | None, findings: Sequence[FindingJson]) -> Waste:
    holdings = [finding["holds"] for finding in findings if finding.get("holds")]
    extended: dict[str, float] = {}
    for holding in holdings:
        for name, amount in (holding.get("extended") or {}).items():
            extended[name] = extended.get(name, 0.0) + float(amount)
    total = {name: sum(float(each.get(name) or 0) for each in holdings) for name in ("cpu_cores", "memory_bytes")}
    since = [each["since"] for each in holdings if each.get("since")]
    reasons = [finding["reason"] for finding in findings]
    counts = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Waste(dag, len(findings), total | {"extended": extended}, min(since, default=None), counts)


_WASTE = (
    Column("dag", Shrink.END, 12),
    Column("pods"),
    Column("holds", Shrink.END, 10),
    Column("oldest"),
    Column("reasons", Shrink.FOLD, 16),
)
_WASTE_CSV = ("dag", "pods", "cpu_cores", "memory_bytes", "extended", "oldest", "reasons")


def show_wastes(wastes: Sequence[Waste], form: str, *, looked_at: int | None, now: float) -> None:
    """Print what each DAG wastes. `looked_at` as of findings; `now` is epoch seconds."""
    if form in ("json", "yaml"):
        write_data([_data(waste) for waste in wastes], form)
    elif form == "csv":
        write_csv(_WASTE_CSV, map(_csv_row, wastes))
    elif wastes:
        write_table(_WASTE, ([*_row(waste, now)] for waste in wastes))
    elif looked_at is not None:
        write_prose(f"Nothing found among {looked_at} Pods of the KubernetesPodOperator.")


def _row(waste: Waste, now: float) -> Iterable[object]:
    oldest = epoch(waste.oldest)
    yield from (waste.dag, waste.pods, held(waste.holds), None if oldest is None else age(max(0.0, now - oldest)))
    yield _counts(waste)


def _csv_row(waste: Waste) -> Sequence[object]:
    extended = " ".join(f"{name}={amount:g}" for name, amount in sorted(waste.holds["extended"].items()))
    amounts = (waste.holds["cpu_cores"], waste.holds["memory_bytes"], extended)
    return (waste.dag, waste.pods, *amounts, waste.oldest, _counts(waste))


def _counts(waste: Waste) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in waste.reasons.items())


def _data(waste: Waste) -> dict[str, Any]:
    return {
        "dag_id": waste.dag,
        "pods": waste.pods,
        "holds": dict(waste.holds),
        "oldest": waste.oldest,
        "reasons": dict(waste.reasons),
    }
