"""Was each Pod that kpo-healer deleted in use, or could it still be used? Judged by what Airflow and KPO recorded.

Nothing here asks kpo-healer or uses its rules. For the moment at which the API server received a DELETE it looks up the
task instance's state and try in the recorded history, the Pod that the current try has named, and what KPO had written
on the Pod; and in KPO's own task logs, whether a task used the Pod afterwards.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.chaos.audit_tail import AuditTail, Deletion
from tests.chaos.recorder import ENDED, Key, Picture, PodStory, Record
from tests.chaos.replicas import FRESHNESS, GRACE

Json = Any

HELD: Final = frozenset({"running", "deferred"})

GONE: Final = ("no longer exists", "already deleted", "404", "Not Found")
"""What KPO says of a Pod that it did not find and could do without."""


@dataclass(frozen=True)
class Ruling:
    """verdict: right, wrong, or raced (Airflow changed its mind within the stated window before the DELETE arrived)."""

    deletion: Deletion
    pod: PodStory | None
    verdict: str
    kind: str
    why: str


@dataclass
class Findings:
    """All that the verdict found out."""

    rulings: list[Ruling] = field(default_factory=list)
    refused: list[Deletion] = field(default_factory=list)
    left: list[tuple[PodStory, str | None]] = field(default_factory=list)
    out_of_turn: list[Deletion] = field(default_factory=list)
    used_later: list[tuple[PodStory, str]] = field(default_factory=list)
    repeated: list[PodStory] = field(default_factory=list)
    unaccounted: list[PodStory] = field(default_factory=list)

    def of(self, verdict: str) -> list[Ruling]:
        return [ruling for ruling in self.rulings if ruling.verdict == verdict]

    def kinds(self) -> Mapping[str, int]:
        """How many were deleted rightly, by what they were."""
        counts: dict[str, int] = {}
        for ruling in self.of("right"):
            counts[ruling.kind] = counts.get(ruling.kind, 0) + 1
        return dict(sorted(counts.items()))

    @property
    def missed(self) -> list[PodStory]:
        return [pod for pod, why in self.left if why is None]


def judge_all(picture: Picture, audit: AuditTail, logs: Path, claimed: Collection[str]) -> Findings:
    """The verdict on everything recorded so far.

    claimed: uids of Pods that some kpo-healer's log says it sent a DELETE for. An API server that is killed may have
    carried one out and not have written it down; such a Pod is judged by the time at which it went.
    """
    findings = Findings()
    deleted: dict[str, Deletion] = {}
    known = {deletion.name for deletion in audit.deletions if deletion.accepted}
    findings.unaccounted = [p for p in picture.pods.values() if p.gone is not None and p.name not in known]
    ghosts = [
        Deletion(pod.gone or 0, "healer", "unknown", pod.name, 200, pod.uid, "unknown")
        for pod in findings.unaccounted
        if pod.uid in claimed
    ]
    for deletion in [*audit.deletions, *ghosts]:
        if deletion.by != "healer":
            continue
        if not deletion.accepted:
            findings.refused.append(deletion)
            continue
        ruling = rule(picture, deletion)
        findings.rulings.append(ruling)
        if deletion.user != "unknown":
            _judge_turn(audit, deletion, findings)
        if ruling.pod is not None and ruling.pod.uid in deleted:
            findings.repeated.append(ruling.pod)
        elif ruling.pod is not None:
            deleted[ruling.pod.uid] = deletion
    findings.left = [(pod, why_left(picture, pod)) for pod in picture.pods.values() if pod.gone is None]
    for uid, deletion in deleted.items():
        findings.used_later += [(picture.pods[uid], line) for line in used_after(picture.pods[uid], deletion.at, logs)]
    return findings


def _judge_turn(audit: AuditTail, deletion: Deletion, findings: Findings) -> None:
    """With several replicas: whether the sender was the last one to write the Lease."""
    if audit.renewals and audit.holder_at(deletion.at) != deletion.user:
        findings.out_of_turn.append(deletion)


def past_the_check(
    deletions: Sequence[Deletion], freezes: Mapping[str, Sequence[tuple[float, float]]]
) -> list[Deletion]:
    """Those that a replica which was frozen between its check and its send had under way: one for each freeze.

    freezes: from when to when, by the users of the replicas.
    """
    excused: dict[tuple[str, float], Deletion] = {}
    for deletion in deletions:
        for begin, end in freezes.get(deletion.user, ()):
            if begin <= deletion.at <= end + 2:
                excused.setdefault((deletion.user, begin), deletion)
    return list(excused.values())


def rule(picture: Picture, deletion: Deletion) -> Ruling:
    """One accepted DELETE."""
    pod = picture.pods.get(deletion.uid or "")
    if deletion.uid is None or deletion.version is None:
        return Ruling(deletion, pod, "wrong", "no precondition", "the DELETE names no uid or resourceVersion")
    if pod is None or pod.key is None:
        return Ruling(deletion, pod, "wrong", "unknown Pod", "the Pod is none of a run that was recorded")
    verdict, kind, why = _rule(picture, pod, pod.key, deletion.at)
    if verdict == "wrong" and kind not in {"impatient", "adopted"} and _was_right(picture, pod, pod.key, deletion.at):
        verdict = "raced"
    return Ruling(deletion, pod, verdict, kind, why)


def _was_right(picture: Picture, pod: PodStory, key: Key, moment: float) -> bool:
    """Whether it would have been right shortly before: Airflow changed its mind while the DELETE was under way."""
    changes = [r.at for r in picture.tasks.get(key, ()) if moment - FRESHNESS < r.at <= moment]
    return any(_rule(picture, pod, key, at - 0.001)[0] == "right" for at in changes)


def _rule(picture: Picture, pod: PodStory, key: Key, moment: float) -> tuple[str, str, str]:
    sight, last = pod.at(moment), picture.state_at(key, moment)
    if last is None:
        return "right", "run deleted", "its run is deleted"
    state, tried = last.state, last.tried
    told = f"{state or 'none'} at try {tried}, the Pod is of try {pod.tried}, {sight}"
    if state in ENDED:
        return _rule_ended(picture, pod, key, moment, told)
    if sight.checked and (pod.tried < tried or state not in {*HELD, "scheduled", "queued"}):
        return "right", "kept" if sight.done else "abandoned", f"KPO is through with it: {told}"
    if state in HELD and pod.tried < tried:
        return _rule_twin(picture, pod, key, moment, told)
    return "wrong", "in use", f"it is in use or may be: {told}"


def _rule_ended(picture: Picture, pod: PodStory, key: Key, moment: float, told: str) -> tuple[str, str, str]:
    since = ended_since(picture, key, moment)
    kind = ("kept" if pod.at(moment).done else "abandoned") if pod.at(moment).checked else ""
    kind = kind or ("finished" if pod.at(moment).done else "orphan")
    if pod.tried > (picture.state_at(key, moment) or _NONE).tried:
        return "wrong", kind, f"its try is not over: {told}"
    if not pod.at(moment).checked and moment - since < GRACE - 0.5:
        return "wrong", "impatient", f"the task had ended {moment - since:.1f} s before: {told}"
    return "right", kind, f"the task had ended {moment - since:.1f} s before: {told}"


_NONE: Final = Record(0, 0, 0, "ti", Key("", "", ""))


def ended_since(picture: Picture, key: Key, moment: float) -> float:
    """Since when the task instance was ended, at that moment."""
    since = moment
    for record in reversed([r for r in picture.tasks[key] if r.kind == "ti" and r.at <= moment]):
        if record.state not in ENDED:
            break
        since = record.at
    return since


def _rule_twin(picture: Picture, pod: PodStory, key: Key, moment: float, told: str) -> tuple[str, str, str]:
    """A Pod of an earlier try while the task instance runs: it may go if the current try has named another one."""
    tried = (picture.state_at(key, moment) or _NONE).tried
    began = next(r.at for r in picture.tasks[key] if r.kind == "ti" and r.tried == tried)
    named = [r.value for r in picture.tasks[key] if r.kind == "named" and began <= r.at <= moment]
    if not named:
        return "wrong", "not settled", f"the current try has named no Pod yet: {told}"
    if named[-1] == pod.name:
        return "wrong", "adopted", f"the current try has adopted it: {told}"
    other = next((p for p in picture.pods_of.get(key, ()) if p.name == named[-1]), None)
    if other is None or (other.gone is not None and other.gone < moment):
        return "wrong", "not settled", f"the Pod that the current try named is gone: {told}"
    return "right", "superseded", f"the current try uses {other.name}: {told}"


def why_left(picture: Picture, pod: PodStory) -> str | None:
    """Why a Pod that is still there at the end has to be; None when nothing explains it."""
    if pod.key is None:
        return "not of a recorded run"
    last = picture.now(pod.key)
    if pod.last.terminating:
        return "on its way out"
    if last is None:
        return None
    if last.state in ENDED:
        return _whose(picture, pod, pod.key, last)
    if pod.last.checked and (pod.tried < last.tried or last.state not in HELD):
        return None
    return f"its task instance is {last.state or 'none'} at try {last.tried}"


def _whose(picture: Picture, pod: PodStory, key: Key, last: Record) -> str | None:
    """An earlier try's Pod that still works, while Airflow names another one, may be another Airflow's: it is reported.

    See `ownership` in docs/rules.md. These Pods have no stamp, which would tell.
    """
    if pod.last.done or pod.tried >= last.tried:
        return None
    said = [r for r in picture.tasks.get(key, ()) if r.kind in {"named", "stored"}]
    if not said or said[-1].value == pod.name:
        return None
    return "it works at an earlier try, and Airflow names another Pod: nothing proves whose it is"


def unexplained(picture: Picture) -> list[PodStory]:
    """The Pods that are there and ought not to be."""
    return [pod for pod in list(picture.pods.values()) if pod.gone is None and why_left(picture, pod) is None]


def used_after(pod: PodStory, moment: float, logs: Path) -> Iterator[str]:
    """Lines of KPO's task logs that show that a task used the Pod after that moment."""
    if pod.key is None:
        return
    for file in _folder(pod.key, logs).rglob("attempt=*.log"):
        for text in file.read_text(errors="replace").splitlines():
            if pod.name in text and _is_use(text, moment):
                yield f"{file.name}: {text[:400]}"


def _is_use(text: str, moment: float) -> bool:
    try:
        when, said = _line(text)
        at = datetime.fromisoformat(when).timestamp()
    except (ValueError, KeyError, TypeError):
        return False
    return at > moment and ("Reusing existing pod" in said or "Found matching pod" in said)


def _line(text: str) -> tuple[str, str]:
    """When, and what: a line is JSON, or in Airflow 2 `[when] {file:line} LEVEL - what`."""
    if text.startswith("["):
        when, _, said = text[1:].partition("]")
        return when, said
    line = json.loads(text)
    return line["timestamp"], str(line.get("event", ""))


# --- counting ---------------------------------------------------------------------------------------------------------


def adoptions(picture: Picture, only: Key | None = None) -> list[tuple[Key, int, str]]:
    """Each (task instance, try, Pod) where a try named a Pod of an earlier one; of one task instance if it is given."""
    found: list[tuple[Key, int, str]] = []
    for key, records in list(picture.tasks.items()) if only is None else [(only, picture.tasks.get(only, []))]:
        tries = {pod.name: pod.tried for pod in picture.pods_of.get(key, ())}
        current: Record | None = None
        for record in list(records):
            if record.kind == "ti":
                current = record
            elif record.kind == "named" and current is not None and current.state == "running":
                one = (key, current.tried, record.value or "")
                if tries.get(one[2], current.tried) < current.tried and one not in found[-3:]:
                    found.append(one)
    return found


def delays(picture: Picture, rulings: Sequence[Ruling]) -> list[float]:
    """Seconds from the end of the task instance to the DELETE of its active Pod, sorted."""
    orphans = [ruling for ruling in rulings if ruling.kind == "orphan" and ruling.pod is not None and ruling.pod.key]
    return sorted(
        r.deletion.at - ended_since(picture, r.pod.key, r.deletion.at) for r in orphans if r.pod and r.pod.key
    )


def confirmed(found: Sequence[tuple[Key, int, str]], logs: Path) -> int:
    """How many of these adoptions KPO's own log tells of too."""
    return sum(f"Reusing existing pod '{pod}'" in _log(key, tried, logs) for key, tried, pod in found)


def _log(key: Key, tried: int, logs: Path) -> str:
    folder = _folder(key, logs) / (f"map_index={key.index}" if key.index >= 0 else "")
    file = folder / f"attempt={tried}.log"
    return file.read_text(errors="replace") if file.exists() else ""


def _folder(key: Key, logs: Path) -> Path:
    return logs / f"dag_id={key.dag}" / f"run_id={key.run}" / f"task_id={key.task}"


def hand_overs(picture: Picture) -> int:
    """How often a deferred task instance went on in a worker, at the same try."""
    return sum(_hand_overs(records) for records in list(picture.tasks.values()))


def _hand_overs(records: list[Record]) -> int:
    count, waiting = 0, 0
    for record in list(records):
        if record.kind != "ti":
            continue
        if record.state == "deferred":
            waiting = record.tried
        elif record.state == "running" and record.tried == waiting:
            count, waiting = count + 1, 0
        elif record.tried != waiting or record.state not in {"scheduled", "queued"}:
            waiting = 0
    return count


def cleared_after_end(picture: Picture) -> int:
    """How often a task instance that had ended was cleared."""
    count = 0
    for records in list(picture.tasks.values()):
        states = [record.state for record in list(records) if record.kind == "ti"]
        count += sum(a in ENDED and b is None for a, b in itertools.pairwise(states))
    return count


def story(picture: Picture, pod: PodStory, deletions: list[Deletion], diary: list[tuple[float, str]]) -> str:
    """All that is known of a Pod and its task instance, in the order of time."""
    lines = [(sight.at, f"Pod {pod.name}: {sight}") for sight in pod.sights]
    if pod.gone is not None:
        lines.append((pod.gone, f"Pod {pod.name}: gone"))
    if pod.key is not None:
        lines += [(r.at, str(r)) for r in picture.tasks.get(pod.key, ())]
        lines += [(r.at, str(r)) for r in picture.runs.get((pod.key.dag, pod.key.run), ())]
        for other in picture.pods_of.get(pod.key, ()):
            if other.uid != pod.uid:
                lines += [(sight.at, f"Pod {other.name} (try {other.tried}): {sight}") for sight in other.sights]
    lines += [(d.at, f"DELETE by {d.user}: {d.code}") for d in deletions if d.name == pod.name]
    lines += [(at, f"director: {what}") for at, what in diary]
    head = f"Pod {pod.name} of {pod.key}, try {pod.tried}:"
    return "\n".join([head, *(f"  {_clock(at)}  {text}" for at, text in sorted(lines))])


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]
