"""What happens where Airflow and a process are not of one mind about who is at work: moves beside those of `moves`.

How this comes about in Airflow 3.3.2, as far as its source tells (recorded histories show each of them):

* The scheduler fails a resumed try whose process lives (`process_executor_events`). A deferrable task instance runs
  twice under one key, with the same try: until it defers, and from its resumption on. Where the end of the first
  process is told only after the second was queued, `BaseExecutor.change_state` takes the key out of `running`,
  `has_task` says no, and the task instance counts as killed from outside: `failed`, or `up_for_retry` where a retry is
  left. Its second process knows nothing of that: it resumes, and cleans up its Pod, while the next try runs.
* A start overtakes an end (`ti_run`). It reads the row FOR UPDATE, refuses all but `queued` and `restarting`, and then
  sets `running` by the row's id alone. SQLite has no row locks and ignores FOR UPDATE: what set the row to `failed` in
  between is overwritten, at the same try. On PostgreSQL and MySQL the one waits for the other. The start waits for
  nothing but the lock (five seconds, then it fails). A failed `running` row has another id for its next try, a failed
  `queued` one keeps it (`fetch_handle_failure_context`).
* An old try's process starts a later try. A failed `queued` row keeps its id: what was queued first still comes and
  finds the row `queued` again, for the next try. It takes it, with its own `try_number`, from the beginning, as
  nothing is left to resume; the next try's own process is refused, and the task instance counts as killed once more.
* An old try's process creates its Pod late. Nothing asks Airflow between a process's start and the creation of its
  Pod: a process that stood still, or that the scheduler has failed, goes on where it was. The label `try_number` is
  that of the context with which it began. And a request can outlive its sender: a process is killed while the API
  server, busy or restarting its etcd, still has its POST.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tests.simulation.airflow import DOOMED, OVERTAKEN, Task, Worker, is_over
from tests.simulation.moves import fail, move

if TYPE_CHECKING:
    from tests.simulation.world import World


# --- the scheduler and the API ----------------------------------------------------------------------------------------


def _resumes(world: World, task: Task) -> bool:
    """Whether it is at work for the second time at this try, in a process of its own or soon."""
    return task.exists and task.holder is not None and task.holder.stage == "resuming" and not task.holder.lost


@move("stale executor event", "task", 2, _resumes, "queued", "running")
def _stale_event(world: World, task: Task, choice: float) -> str:
    return f"is taken for killed, as its first process's end is told only now: {fail(world, task, alive=True)}"


def _overtakes(world: World, task: Task) -> bool:
    return task.exists and task.starting_until >= world.airflow_time


@move("start overtakes", "task", 12, _overtakes, *sorted(OVERTAKEN))
def _start_overtakes(world: World, task: Task, choice: float) -> str:
    worker = next((z for z in task.zombies if z.stage == "resuming" and z.number == task.number and not z.lost), None)
    if worker is None:
        worker = Worker(task.number, row=task.ident)
        task.begin_try()
    else:
        task.zombies.remove(worker)
        worker.doomed_at = math.inf
    task.holder = worker
    task.move("running", world.airflow_time)
    return f"is running all the same at try {task.number}: its start was under way"


def _old_start(task: Task) -> Worker | None:
    """A given-up worker that is yet to start, and whose row is to be started again."""
    waiting = (z for z in task.zombies if z.stage == "resuming" and z.row == task.ident and not z.lost)
    return next((z for z in waiting if z.number < task.number), None) if task.holder is None else None


@move("old try starts", "task", 4, lambda w, t: t.exists and _old_start(t) is not None, "queued")
def _old_try_starts(world: World, task: Task, choice: float) -> str:
    old = _old_start(task)
    assert old is not None
    task.zombies.remove(old)
    task.holder = Worker(old.number, row=task.ident)
    task.begin_try()
    task.move("running", world.airflow_time)
    return f"runs in a worker that was meant for try {old.number}"


def _another_runs(world: World, task: Task) -> bool:
    holder = task.holder
    return task.exists and holder is not None and not holder.lost and holder.number < task.number


@move("start refused", "task", 12, _another_runs, "running")
def _start_refused(world: World, task: Task, choice: float) -> str:
    return f"is taken for killed, as its own try's start is refused: {fail(world, task, alive=True)}"


# --- processes that Airflow has given up ------------------------------------------------------------------------------


@move("zombie returns", "task", 1, lambda w, t: any(z.lost for z in t.zombies))
def _zombie(world: World, task: Task, choice: float) -> str:
    zombie = next(z for z in task.zombies if z.lost)
    if zombie.stage == "search" and choice < 0.5:
        zombie.lost, zombie.doomed_at = False, world.time + DOOMED
        return "its lost worker returns and goes on"
    task.zombies.remove(zombie)
    return f"its lost worker returns and {world.kpo.kill(task, zombie, cleanly=0.2 <= choice < 0.7)}"


@move("doomed worker ends", "task", 3, lambda w, t: any(not z.lost for z in t.zombies))
def _doomed_ends(world: World, task: Task, choice: float) -> str:
    zombie = next(z for z in task.zombies if not z.lost)
    task.zombies.remove(zombie)
    return f"its old worker {world.kpo.kill(task, zombie, cleanly=choice < 0.4)}"


def _creating(task: Task) -> Worker | None:
    return next((z for z in task.zombies if z.stage in {"search", "asked"} and not z.lost), None)


@move("doomed worker creates", "task", 2, lambda w, t: _creating(t) is not None)
def _doomed_creates(world: World, task: Task, choice: float) -> str:
    zombie = _creating(task)
    assert zombie is not None
    if choice < 0.5:
        return f"its old worker, or a request that outlived it, {world.kpo.create(task, zombie)}"
    return f"its old worker {world.kpo.search(task, zombie)}"


def _over_with(world: World, task: Task) -> Worker | None:
    """A given-up worker that sees the end of its Pod."""
    pods = world.server.pods
    workers = (z for z in task.zombies if z.stage in {"watching", "resuming"} and not z.lost)
    return next((z for z in workers if z.pod in pods and is_over(pods[z.pod or ""], task.setup.base)), None)


@move("doomed worker cleans up", "task", 3, lambda w, t: _over_with(w, t) is not None)
def _doomed_cleans_up(world: World, task: Task, choice: float) -> str:
    zombie = _over_with(world, task)
    assert zombie is not None
    task.zombies.remove(zombie)
    return f"its old worker {world.kpo.cleanup(task, zombie, lost=choice < 0.3)}"


__all__: list[str] = []
