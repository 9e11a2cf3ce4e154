"""What should stop nobody but itself: rows that spoil each answer, forged Pods, Pods of others, a login that ends.

Moves beside those of `moves`. Rows and forged Pods stay bad to the end of a history, so that whoever has nothing to do
with them must be healed as soon as without them.

* A row that Airflow can't put into JSON answers 500 to every list that has it, and to the question about itself.
* A raw id in an annotation that PostgreSQL refuses (NUL): Airflow answers 500, or 422 where its database driver says it
  is the question's fault. Whoever may create Pods can write it, as often as he likes.
* A Pod of a KubernetesExecutor's worker carries the ids of its task instance. Only the selector tells it from KPO's
  and a proxy may leave that out of account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from healer.model import Container, Labels, Pod, RawIds
from tests.simulation.airflow import Task, label_value
from tests.simulation.answers import REFUSALS
from tests.simulation.moves import move

if TYPE_CHECKING:
    from tests.simulation.world import World

FLOOD = (1, 2, 12, 25)
"""How many forged Pods come at a time: halving down to more than ten of them costs more than twenty failures."""


@move("row breaks", "task", 0.05, lambda w, t: t.ours and t.exists and t.index not in w.faults.poisoned)
def _row_breaks(world: World, task: Task, choice: float) -> str:
    world.faults.poisoned.add(task.index)
    return "has a row from now on that spoils each answer which has it"


@move("row mends", "task", 0.3, lambda w, t: t.index in w.faults.poisoned)
def _row_mends(world: World, task: Task, choice: float) -> str:
    world.faults.poisoned.discard(task.index)
    return "has a row that can be read again"


@move("Pods forged", "world", 0.06, lambda w, _: not w.forged)
def _forged(world: World, _: int, choice: float) -> str:
    world.forged = FLOOD[int(choice * len(FLOOD))]
    world.faults.refusal = 422 if choice * 16 % 1 < 0.4 else 500
    for number in range(world.forged):
        raw = f"{'az'[number % 2]}\0{number}"
        labels = Labels(label_value(raw), "load", label_value("manual"), None, "1")
        pod = Pod("jobs", f"forged-{number}", "", "", None, "Running", labels, (Container("base"),))
        world.server.create(replace(pod, raw=RawIds(dag_id=raw)), None)
    return f"{world.forged} Pods are forged, whose ids Airflow's database refuses: {world.faults.refusal}"


@move("login ends", "world", 0.3, lambda w, _: not w.faults.mode)
def _login_ends(world: World, _: int, choice: float) -> str:
    world.faults.mode = REFUSALS[int(choice * len(REFUSALS))]
    return f"the healer is refused: {world.faults.mode}"


@move("executor's Pod", "task", 0.08, lambda w, t: t.number > 0 and len(w.server.pods) < 12, "running", "failed")
def _executors_pod(world: World, task: Task, choice: float) -> str:
    name = f"worker-{world.server.version}"
    base = (Container("base"),)
    pod = Pod(task.setup.namespace, name, "", "", None, "Running", task.labels(), base, selected=False)
    world.server.create(pod, task.place, maker=task.index)
    return f"gets a Pod of its executor, {name}"


@move("selector ignored", "world", 0.15, lambda w, _: not w.server.faults.unfiltered)
def _unfiltered(world: World, _: int, choice: float) -> str:
    world.server.faults.unfiltered = True
    for replica in world.replicas:
        replica.relist()
    return "lists and watches leave the selector out of account"


@move("selector counts", "world", 0.5, lambda w, _: w.server.faults.unfiltered)
def _filtered(world: World, _: int, choice: float) -> str:
    world.server.faults.unfiltered = False
    return "lists and watches heed the selector again"


__all__: list[str] = []
