"""The recorded history of each task instance in the simulation's words, and what the simulation's model says to it."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.audit_tail import AuditTail
from tests.chaos.recorder import Key, Picture, PodStory
from tests.chaos.verdict import adoptions
from tests.simulation.traces import accepts, load

Json = Any

_NATURE: Final[dict[str, dict[str, Json]]] = {
    "kpo_keep": {"on_finish": "keep_pod"},
    "kpo_gives_up": {"on_finish": "keep_pod"},
    "kpo_base": {"base": "main"},
    "kpo_base_xcom": {"base": "main"},
    "chaos_twins": {"durable": False},
    "chaos_twins_deferrable": {"durable": False},
}


def header(key: Key) -> Json:
    """What is known of the task beforehand."""
    nature = {"deferrable": "deferrable" in key.dag, "durable": True, "on_finish": "delete_pod", "base": "base"}
    retries = 2 if key.dag.startswith("chaos_") else 0
    return {
        "kind": "trace",
        "task": str(key),
        "retries": retries,
        "sampled": False,
        **nature,
        **_NATURE.get(key.dag, {}),
    }


def trace(picture: Picture, audit: AuditTail, key: Key) -> list[Json]:
    """The header, and all events in the order of time."""
    events = [*_states(picture, key), *_adopted(picture, key)]
    for pod in picture.pods_of.get(key, ()):
        events += _of_pod(pod, audit)
    return [header(key), *sorted(events, key=lambda event: event["at"])]


def _states(picture: Picture, key: Key) -> Iterator[Json]:
    last: tuple[str | None, int] | None = None
    for record in picture.tasks.get(key, ()):
        if record.kind == "ti" and (record.state, record.tried) != last:
            last = record.state, record.tried
            yield {"at": record.at, "kind": "task-state", "state": record.state, "try": record.tried}
        elif record.kind == "ti-gone":
            yield {"at": record.at, "kind": "run-deleted"}


def _adopted(picture: Picture, key: Key) -> Iterator[Json]:
    pods = {pod.name: pod for pod in picture.pods_of.get(key, ())}
    for of, tried, name in adoptions(picture, key):
        named = next(
            r for r in picture.tasks[key] if r.kind == "named" and r.value == name and _try_at(picture, r) == tried
        )
        yield {"at": named.at, "kind": "pod-adopted", "pod": pods[name].uid, "try": tried}
        assert of == key


def _try_at(picture: Picture, record: Any) -> int:
    state = picture.state_at(record.key, record.at)
    return state.tried if state else 0


def _of_pod(pod: PodStory, audit: AuditTail) -> Iterator[Json]:
    deletions = [d for d in audit.deletions if d.name == pod.name and d.accepted]
    # The API server tells the second in which it was made; a watch that begins anew shows it later.
    created = min(pod.sights[0].at, pod.created + 1)
    yield {"at": created, "kind": "pod-created", "pod": pod.uid, "try": pod.tried}
    phase, base, checked = "Pending", False, False
    for sight in pod.sights:
        common = {"at": sight.at, "pod": pod.uid}
        if sight.base_ended and not base and sight.phase == "Running":
            yield {**common, "kind": "pod-base-ended", "exit": sight.exit_code}
        if sight.phase != phase:
            more = {} if sight.exit_code is None else {"exit": sight.exit_code}
            yield {**common, "kind": "pod-phase", "phase": sight.phase, **more}
        if sight.checked and not checked:
            yield {**common, "kind": "pod-checked"}
        phase, base, checked = sight.phase, base or sight.base_ended, sight.checked
    if deletions:
        yield {"at": deletions[0].at, "kind": "pod-deleted", "pod": pod.uid, "by": deletions[0].by}
    elif pod.gone is not None:  # the API server was killed before it wrote the DELETE down
        yield {"at": pod.gone, "kind": "pod-deleted", "pod": pod.uid, "by": "other"}


def write(picture: Picture, audit: AuditTail, folder: Path) -> dict[Path, Key]:
    """Writes each history into a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers: Counter[str] = Counter()
    files = {}
    for key in [key for key in picture.pods_of if key in picture.tasks]:
        numbers[key.dag] += 1
        file = folder / f"{key.dag}-{numbers[key.dag]:04}.jsonl"
        file.write_text("".join(json.dumps(event) + "\n" for event in trace(picture, audit, key)))
        files[file] = key
    return files


@dataclass(frozen=True)
class Refusal:
    """A history that the model holds impossible. why: a sentence. file: its name; lines: what stands in it."""

    key: Key
    why: str
    file: str
    lines: str


def refused(files: Mapping[Path, Key]) -> list[Refusal]:
    """The histories that the model holds impossible, as they are, so that they can be followed again.

    Asked on all processors, once for all histories that differ in times and names only: some take it many seconds.
    """
    alike: dict[tuple[str, ...], list[Path]] = {}
    for file in files:
        alike.setdefault(_shape(file), []).append(file)
    shapes = sorted(alike)  # similar ones one after another: a process remembers what it found out
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        answers = list(pool.map(ask, [alike[shape][0] for shape in shapes], chunksize=8))
    return [
        Refusal(files[file], why, file.name, file.read_text())
        for shape, why in zip(shapes, answers, strict=True)
        for file in alike[shape]
        if why
    ]


def keep(refusals: Sequence[Refusal], folder: Path) -> None:
    """Writes them below `folder`, for `python -m tests.simulation.traces`; none of an earlier run stays there."""
    for old in folder.glob("*.jsonl"):
        old.unlink()
    if not refusals:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for refusal in refusals:
        (folder / refusal.file).write_text(refusal.lines)


def _shape(file: Path) -> tuple[str, ...]:
    """A history without its times, and with numbers in place of names: the model looks at nothing else."""
    numbers: dict[str, int] = {}
    shape = []
    for line in load(file):
        event = {name: value for name, value in line.items() if name not in {"at", "task"}}
        if "pod" in event:
            event["pod"] = numbers.setdefault(event["pod"], len(numbers))
        shape.append(json.dumps(event, sort_keys=True))
    return tuple(shape)


def ask(file: Path) -> str | None:
    """Why the model holds this history impossible; None when it does not."""
    return accepts(load(file))
