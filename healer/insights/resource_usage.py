"""What Pods hold that nobody needs. Pure: neither I/O nor a clock.

A Pod holds what it requests until its phase is Succeeded or Failed: then Kubernetes gives it to others, though the Pod
is still there. One that is Pending counts: it is bound to a node, or takes its share of a quota.
"""

from __future__ import annotations

from collections.abc import Iterable

from healer.decision.rules import ENDED
from healer.model import Amounts, Pod, TaskInstance


def holds(pod: Pod) -> bool:
    """Whether a Pod occupies what it requests."""
    return pod.phase not in {"Succeeded", "Failed"}


def requested(pods: Iterable[Pod]) -> Amounts:
    """Return what these Pods hold together."""
    return total((pod, 1.0) for pod in pods)


def total(pods: Iterable[tuple[Pod, float]]) -> Amounts:
    """Return what these Pods hold together, each times its weight, such as the seconds that it held it."""
    cpu = memory = 0.0
    extended: dict[str, float] = {}
    for pod, weight in pods:
        if not holds(pod):
            continue
        cpu += weight * pod.cpu_cores
        memory += weight * pod.memory_bytes
        for name, amount in pod.extended:
            extended[name] = extended.get(name, 0.0) + weight * amount
    return Amounts(cpu, memory, extended)


def task_end(task: TaskInstance | None) -> float | None:
    """Return when a task instance ended (epoch seconds), None where it has not or Airflow does not say."""
    return task.end_date if task is not None and task.state in ENDED else None


def idle_since(pod: Pod, task: TaskInstance | None) -> float | None:
    """Return since when nobody has needed a Pod (epoch seconds): its task's end, else, at the latest, its creation."""
    end = task_end(task)
    return pod.created if end is None or pod.created is None else max(end, pod.created)
