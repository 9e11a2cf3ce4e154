"""What can happen: to a task instance, to a Pod, to the servers. Each move says when it can happen and does it.

A move gets a target (the number of a task instance or Pod) and a choice between 0 and 1 that decides its variants, so
that a recorded story replays exactly. It returns the words for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from healer.model import UNREADABLE, Container, Pod
from tests.simulation.airflow import DOOMED, IN_FLIGHT, Task, Worker, is_over

if TYPE_CHECKING:
    from tests.simulation.replica import Replica
    from tests.simulation.world import World

Can = Callable[["World", Any], bool]
Do = Callable[["World", Any, float], str]


class Move(Struct, frozen=True):
    """One thing that can happen, and how often it does compared with the others."""

    name: str
    kind: str
    weight: float
    can: Can
    do: Do
    states: frozenset[str | None] | None
    counted: str

    def possible(self, world: World, target: Any) -> bool:
        """Whether it can happen to this target now."""
        return (self.states is None or state_of(self.kind, target) in self.states) and self.can(world, target)


MOVES: dict[str, Move] = {}


def move(name: str, kind: str, weight: float, can: Can, *states: str | None) -> Callable[[Do], Do]:
    """Register a move. `states`: of the task instance, or phases of the Pod, in which alone it can happen."""

    def register(do: Do) -> Do:
        MOVES[name] = Move(name, kind, weight, can, do, frozenset(states) if states else None, f"move: {name}")
        return do

    return register


# --- Airflow's scheduler ----------------------------------------------------------------------------------------------


def _idle(world: World, task: Task) -> bool:
    return task.exists and task.state in {None, "up_for_retry"}


@move("schedule", "task", 6, _idle, None, "up_for_retry")
def _schedule(world: World, task: Task, choice: float) -> str:
    world.retire(task)
    task.number += 1
    task.move("scheduled", world.airflow_time)
    return f"is scheduled for try {task.number}"


@move("queue", "task", 8, lambda w, t: t.exists and t.state == "scheduled", "scheduled")
def _queue(world: World, task: Task, choice: float) -> str:
    task.move("queued", world.airflow_time)
    return "is queued"


@move("start", "task", 8, lambda w, t: t.exists and t.state == "queued", "queued")
def _start(world: World, task: Task, choice: float) -> str:
    began = task.start
    task.move("running", world.airflow_time)
    if task.two and task.holder is not None and task.holder.stage == "resuming":
        task.start = began
    if task.holder is not None and task.holder.stage == "resuming":
        if task.holder.failing:
            task.holder.stage = "ending"
            return "resumes in a worker, to fail"
        return "resumes in a worker"
    task.holder = Worker(task.number, row=task.ident)
    task.begin_try()
    return f"runs in a worker, try {task.number}"


@move(
    "stuck in queued", "task", 0.15, lambda w, t: t.exists and t.state in {"scheduled", "queued"}, "scheduled", "queued"
)
def _stuck(world: World, task: Task, choice: float) -> str:
    world.retire(task)
    task.move("failed", world.airflow_time)
    return "is failed because it was queued for too long"


@move("upstream failed", "task", 0.1, lambda w, t: t.exists and t.state is None, None)
def _upstream(world: World, task: Task, choice: float) -> str:
    world.retire(task)
    task.move("upstream_failed", world.airflow_time)
    return "is upstream_failed"


@move("scheduler dies", "task", 0.15, lambda w, t: t.exists and t.state in {"running", "queued"}, "running", "queued")
def _scheduler_dies(world: World, task: Task, choice: float) -> str:
    world.doom(task)
    task.move(None, world.airflow_time, anew=True)
    return "is reset to none: its scheduler died"


@move("odd state", "task", 0.1, lambda w, t: t.exists and t.state in {"running", None}, "running", None)
def _odd(world: World, task: Task, choice: float) -> str:
    world.doom(task)
    task.move("up_for_reschedule" if choice < 0.5 else "awaiting_input", world.airflow_time)
    return f"is {task.state}"


@move(
    "odd state ends",
    "task",
    3,
    lambda w, t: t.exists and t.state in {"up_for_reschedule", "awaiting_input"},
    "up_for_reschedule",
    "awaiting_input",
)
def _odd_ends(world: World, task: Task, choice: float) -> str:
    task.move(None, world.airflow_time, anew=True)
    return "is reset to none"


# --- the operator -----------------------------------------------------------------------------------------------------


def _works(world: World, task: Task, *stages: str) -> bool:
    holder = task.holder
    return task.exists and task.state == "running" and holder is not None and not holder.lost and holder.stage in stages


def _pod_of(world: World, task: Task) -> Pod | None:
    return world.server.pods.get(task.holder.pod or "") if task.holder else None


def _pod_over(world: World, task: Task) -> bool:
    pod = _pod_of(world, task)
    return pod is None or is_over(pod, task.setup.base)


def _holder(task: Task) -> Worker:
    assert task.holder is not None
    return task.holder


@move("search", "task", 9, lambda w, t: _works(w, t, "search", "asked"), "running")
def _search(world: World, task: Task, choice: float) -> str:
    return f"its worker {world.kpo.search(task, _holder(task))}"


@move("persist", "task", 9, lambda w, t: _works(w, t, "made"), "running")
def _persist(world: World, task: Task, choice: float) -> str:
    world.kpo.persist(task, _holder(task))
    task.pushed = world.airflow_time
    return "its worker writes down its Pod"


@move("defer", "task", 3, lambda w, t: t.setup.deferrable and _works(w, t, "watching"), "running")
def _defer(world: World, task: Task, choice: float) -> str:
    _holder(task).stage = "deferred"
    task.move("deferred", world.airflow_time)
    return "is deferred"


@move("trigger fires", "task", 4, lambda w, t: t.exists and t.state == "deferred" and _pod_over(w, t), "deferred")
def _fires(world: World, task: Task, choice: float) -> str:
    _holder(task).stage = "resuming"
    task.move("scheduled", world.airflow_time)
    return "is scheduled to resume: its trigger fired"


@move("trigger dies", "task", 0.4, lambda w, t: t.exists and t.state == "deferred", "deferred")
def _trigger_dies(world: World, task: Task, choice: float) -> str:
    if choice < 0.5:
        return "its trigger moves to another triggerer"
    _holder(task).stage, _holder(task).failing = "resuming", True
    task.move("scheduled", world.airflow_time)
    return "is scheduled to fail: its trigger died"


@move("clean up", "task", 7, lambda w, t: _works(w, t, "watching", "resuming") and _pod_over(w, t), "running")
def _clean_up(world: World, task: Task, choice: float) -> str:
    return f"its worker {world.kpo.cleanup(task, _holder(task), lost=choice < 0.3)}"


@move("time out", "task", 0.6, lambda w, t: _works(w, t, "watching") and not _pod_over(w, t), "running")
def _time_out(world: World, task: Task, choice: float) -> str:
    _holder(task).failing = True
    return f"times out and its worker {world.kpo.cleanup(task, _holder(task), lost=choice < 0.2)}"


@move("end", "task", 8, lambda w, t: _works(w, t, "ending"), "running")
def _end(world: World, task: Task, choice: float) -> str:
    if _holder(task).failing:
        return fail(world, task)
    task.holder = None
    task.move("success", world.airflow_time)
    return "succeeds"


def fail(world: World, task: Task, *, alive: bool = False) -> str:
    """Let a try fail. `alive`: its worker does not know of it yet."""
    world.retire(task, alive=alive)
    if task.number <= task.retries:
        task.move("up_for_retry", world.airflow_time, anew=task.state == "running")
        return "fails and is up_for_retry"
    task.move("failed", world.airflow_time)
    return "fails"


def _has_worker(world: World, task: Task) -> bool:
    return _works(world, task, "search", "asked", "made", "watching", "resuming", "ending")


@move("worker killed", "task", 0.9, _has_worker, "running")
def _killed(world: World, task: Task, choice: float) -> str:
    killed = _holder(task)
    words = f"its worker {world.kpo.kill(task, killed, cleanly=choice < 0.2)}: {fail(world, task)}"
    if killed.stage in {"search", "asked"} and 0.2 <= choice < 0.4:
        killed.stage, killed.doomed_at = "asked", world.time + IN_FLIGHT
        task.zombies.append(killed)
        return f"{words}; its request for a Pod is on its way"
    return words


@move("worker lost", "task", 0.7, _has_worker, "running")
def _lost(world: World, task: Task, choice: float) -> str:
    _holder(task).lost = True
    return "its worker is lost"


def _silent(world: World, task: Task) -> bool:
    return task.exists and task.state == "running" and task.holder is not None and task.holder.lost


@move("heartbeat missed", "task", 3, _silent, "running")
def _heartbeat(world: World, task: Task, choice: float) -> str:
    lost = _holder(task)
    words = fail(world, task)
    if choice < 0.5:
        task.zombies.append(lost)
    return f"its worker's heartbeat is missed: {words}"


# --- users ------------------------------------------------------------------------------------------------------------


@move("mark", "task", 0.35, lambda w, t: t.exists and t.number > 0 and t.state != "success")
def _mark(world: World, task: Task, choice: float) -> str:
    world.doom(task)
    state, before = "success" if choice < 0.5 else "failed", task.end
    task.move(state, world.airflow_time)
    if task.two and before is not None:  # what was cleared and has not run since keeps its end
        task.end = before
    return f"is marked {state}"


@move("run marked failed", "task", 0.3, lambda w, t: t.exists and not t.ended and t.number > 0)
def _run_marked(world: World, task: Task, choice: float) -> str:
    for each in world.fellows(task):
        if not each.ended:
            world.doom(each)
            each.move("failed", world.airflow_time)
    return "and all others that had not ended are marked failed with their run"


@move("clear", "task", 0.8, lambda w, t: t.exists and t.number > 0 and (t.ended or t.state == "up_for_retry"))
def _clear(world: World, task: Task, choice: float) -> str:
    world.retire(task)
    task.retries = task.number + 1
    task.move(None, world.airflow_time, anew=True)
    task.idle = task.two
    return "is cleared"


@move("clear running", "task", 0.3, lambda w, t: t.exists and t.state == "running", "running")
def _clear_running(world: World, task: Task, choice: float) -> str:
    if task.two and choice < 0.6:  # by REST: it stays running, and is killed or runs on untouched
        task.retries = task.number + 1
        return f"is cleared while running: {fail(world, task, alive=True) if choice < 0.3 else 'it runs on'}"
    world.doom(task)
    task.retries = task.number + 1
    task.move("restarting", world.airflow_time, anew=True)
    return "is cleared while running"


@move("run by force", "task", 1, lambda w, t: t.two and t.exists and t.ended and t.number > 0)
def _by_force(world: World, task: Task, choice: float) -> str:
    """`airflow tasks run --force` runs the very same try again: only its start tells it from what was before."""
    world.retire(task)
    task.move("running", world.airflow_time)
    task.holder = Worker(task.number, row=task.ident)
    return f"is run by force: try {task.number} once more"


@move("restart", "task", 4, lambda w, t: t.exists and t.state == "restarting", "restarting")
def _restart(world: World, task: Task, choice: float) -> str:
    task.move("up_for_retry" if choice < 0.5 else None, world.airflow_time)
    return "is ready to restart"


@move("clear deferred", "task", 0.8, lambda w, t: t.exists and t.state == "deferred", "deferred")
def _clear_deferred(world: World, task: Task, choice: float) -> str:
    world.doom(task)
    task.retries = task.number + 1
    task.move(None, world.airflow_time, anew=True)
    return "is cleared while deferred"


@move("run times out", "task", 0.15, lambda w, t: t.exists and t.number > 0 and not t.ended)
def _skip(world: World, task: Task, choice: float) -> str:
    world.doom(task)
    task.move("skipped", world.airflow_time)
    return "is skipped: its run timed out"


@move("task removed", "task", 0.15, lambda w, t: t.exists and t.number > 0 and t.state not in {"removed", "success"})
def _removed(world: World, task: Task, choice: float) -> str:
    world.doom(task)
    task.move("removed", world.airflow_time)
    return "is removed from its DAG"


@move("task restored", "task", 0.3, lambda w, t: t.exists and t.state == "removed", "removed")
def _restored(world: World, task: Task, choice: float) -> str:
    task.move(None, world.airflow_time, anew=True)
    task.idle = task.two
    return "is restored to its DAG"


@move("run deleted", "task", 0.1, lambda w, t: t.exists and t.number > 0 and (t.two or t.state != "running"))
def _run_deleted(world: World, task: Task, choice: float) -> str:
    for each in world.fellows(task):
        world.doom(each)
        each.run_exists = False
    return "and its whole run are deleted"


@move("run created again", "task", 0.4, lambda w, t: not t.run_exists)
def _run_again(world: World, task: Task, choice: float) -> str:
    for each in world.fellows(task):
        each.run_exists, each.number, each.stored, each.xcom = True, 0, None, None
        each.move(None, world.airflow_time, anew=True)
    return "and its whole run are created again"


@move("DAG deleted", "task", 0.04, lambda w, t: t.exists and t.state != "running")
def _dag_deleted(world: World, task: Task, choice: float) -> str:
    for each in world.fellows(task):
        each.dag_exists = False
    return "and its DAG are not there any more"


@move("DAG returns", "task", 2, lambda w, t: not t.dag_exists)
def _dag_returns(world: World, task: Task, choice: float) -> str:
    for each in world.fellows(task):
        each.dag_exists = True
    return "and its DAG are there again"


@move("row deleted", "task", 0.05, lambda w, t: t.exists and t.number > 0 and not w.twins)
def _row_deleted(world: World, task: Task, choice: float) -> str:
    world.doom(task)
    task.row_exists = False
    return "has no row any more"


@move("row returns", "task", 1, lambda w, t: not t.row_exists)
def _row_returns(world: World, task: Task, choice: float) -> str:
    task.row_exists = True
    task.move(None, world.airflow_time, anew=True)
    return "has a row again"


@move("reattach switched on", "task", 0.3, lambda w, t: not t.setup.durable)
def _reattach(world: World, task: Task, choice: float) -> str:
    task.setup = changed(task.setup, durable=True)
    return "gets reattach_on_restart by its author"


def _crowded(world: World, task: Task) -> bool:
    fellows = world.fellows(task)
    return len(fellows) > 2 and sum(_has_worker(world, each) for each in fellows) > 1


@move("many workers killed", "task", 0.3, _crowded, "running")
def _massacre(world: World, task: Task, choice: float) -> str:
    killed = [each for each in world.fellows(task) if _has_worker(world, each)]
    for each in killed:
        each.retries = 0
        world.kpo.kill(each, _holder(each), cleanly=False)
        fail(world, each)
    return f"and {len(killed)} in all lose their workers and fail"


@move("identity expires", "task", 0.15, lambda w, t: not t.ended and (t.stored or t.xcom) is not None)
def _expires(world: World, task: Task, choice: float) -> str:
    if choice < 0.5:
        task.stored = None
    else:
        task.xcom = None
    if task.state == "removed":
        task.unnamed.add(task.ident)
    return "loses what named its Pod"


@move("debug copy", "task", 0.2, lambda w, t: t.number > 0 and len(w.server.pods) < 12)
def _copy(world: World, task: Task, choice: float) -> str:
    base = (Container(task.setup.base),)
    name = f"copy-{world.server.version}"
    pod = Pod(task.setup.namespace, name, "", "", None, "Running", task.labels(), base, owner_label=task.setup.stamp)
    world.server.create(pod, task.place, maker=task.index)
    return f"gets a copy, {name}"


# --- Pods -------------------------------------------------------------------------------------------------------------


def _ended(pod: Pod, code: int, at: float, *, whole: bool) -> tuple[Container, ...]:
    first, *others = pod.containers
    return Container(first.name, True, code, at), *(Container(o.name, True, 0, at) if whole else o for o in others)


def _alive(world: World, pod: Pod) -> bool:
    return pod.phase in {"Pending", "Running"}


@move("Pod starts", "pod", 6, lambda w, p: p.phase == "Pending" and not p.terminating, "Pending")
def _pod_starts(world: World, pod: Pod, choice: float) -> str:
    world.server.change(pod.uid, phase="Running")
    return "starts"


@move("base ends", "pod", 2, lambda w, p: p.phase == "Running" and not p.containers[0].terminated, "Running")
def _base_ends(world: World, pod: Pod, choice: float) -> str:
    code = 0 if choice < 0.6 else 1
    whole = len(pod.containers) == 1 or choice < 0.2
    phase = "Running" if not (whole and pod.restart_never) else "Succeeded" if code == 0 else "Failed"
    containers = _ended(pod, code, world.server.time, whole=whole)
    world.server.change(pod.uid, containers=containers, phase=phase)
    return f"ends its work with {code}" + ("" if phase != "Running" else ", and goes on running")


@move("container restarts", "pod", 2, lambda w, p: p.phase == "Running" and not p.restart_never and _over(p), "Running")
def _container_restarts(world: World, pod: Pod, choice: float) -> str:
    world.server.change(pod.uid, containers=tuple(Container(c.name) for c in pod.containers))
    return "starts its work again"


def _over(pod: Pod) -> bool:
    return pod.containers[0].terminated


@move("sidecar ends", "pod", 0.7, lambda w, p: p.phase == "Running" and _over(p) and p.restart_never, "Running")
def _sidecar_ends(world: World, pod: Pod, choice: float) -> str:
    phase = "Succeeded" if pod.containers[0].exit_code == 0 else "Failed"
    ended = tuple(replace(c, terminated=True) for c in pod.containers)
    world.server.change(pod.uid, phase=phase, containers=ended)
    return "ends wholly"


@move("evicted", "pod", 0.2, lambda w, p: _alive(w, p) and not p.terminating, "Pending", "Running")
def _evicted(world: World, pod: Pod, choice: float) -> str:
    world.server.change(pod.uid, phase="Failed", ended=world.server.time)
    return "is evicted"


@move("node lost", "pod", 0.15, _alive, "Pending", "Running")
def _node_lost(world: World, pod: Pod, choice: float) -> str:
    world.server.change(pod.uid, phase="Unknown")
    return "is on a lost node"


@move("node returns", "pod", 2, lambda w, p: p.phase == "Unknown", "Unknown")
def _node_returns(world: World, pod: Pod, choice: float) -> str:
    world.server.change(pod.uid, phase="Running")
    return "is on a node that returned"


@move("protect", "pod", 0.08, lambda w, p: not p.protected)
def _protect(world: World, pod: Pod, choice: float) -> str:
    world.server.change(pod.uid, protected=True)
    return "is protected by a user"


@move("unprotect", "pod", 0.4, lambda w, p: p.protected)
def _unprotect(world: World, pod: Pod, choice: float) -> str:
    world.server.change(pod.uid, protected=False)
    return "is not protected any more"


@move("asks for retention", "pod", 0.08, lambda w, p: p.retention is None)
def _asks_for_retention(world: World, pod: Pod, choice: float) -> str:
    wish = (0.0, 180.0, 300.0, 3600.0, UNREADABLE)[int(choice * 5)]
    world.server.change(pod.uid, retention=wish)
    return f"is to stay for {wish:.0f} s" if wish >= 0 else "has an annotation of retention that is no duration"


@move("asks for none", "pod", 0.3, lambda w, p: p.retention is not None)
def _asks_for_none(world: World, pod: Pod, choice: float) -> str:
    world.server.change(pod.uid, retention=None)
    return "is not asked to stay any more"


@move("user checks", "pod", 0.1, lambda w, p: not p.checked)
def _user_checks(world: World, pod: Pod, choice: float) -> str:
    world.server.facts[pod.uid].marked_by_user = True
    world.server.change(pod.uid, checked=True)
    return "is marked already_checked by a user"


@move("user deletes", "pod", 0.15, lambda w, p: not p.terminating)
def _user_deletes(world: World, pod: Pod, choice: float) -> str:
    world.server.facts[pod.uid].stuck = choice < 0.15
    world.server.end(pod.uid)
    return "is deleted by a user" + (", but a finalizer holds it" if choice < 0.15 else "")


@move("labels change", "pod", 0.07, lambda w, p: p.labels.task_id is not None and p.selected)
def _labels_change(world: World, pod: Pod, choice: float) -> str:
    if choice < 0.4:
        world.server.change(pod.uid, labels=replace(pod.labels, task_id=None))
        return "loses its label task_id"
    if choice < 0.7:
        world.server.change(pod.uid, selected=False)
        return "loses the label kubernetes_pod_operator"
    world.server.change(pod.uid, owner_label="staging")
    return "is stamped for another Airflow"


@move("Pod touched", "pod", 0.3, lambda w, p: True)
def _touched(world: World, pod: Pod, choice: float) -> str:
    world.server.change(pod.uid)
    return "is written to"


# --- servers ----------------------------------------------------------------------------------------------------------

MODES = (
    "down",
    "partial",
    "silent",
    "no-state",
    "no-try",
    "no-operator",
    "other-row",
    "odd-state",
    "identity-fails",
    "ambiguous",
    "contradiction",
    "unreadable DAG",
    "ids alone",
    "other Airflow",
)


@move("Airflow fails", "world", 1.2, lambda w, _: not w.faults.mode)
def _airflow_fails(world: World, _: int, choice: float) -> str:
    world.faults.mode = MODES[int(choice * len(MODES))]
    return f"Airflow's answers get worse: {world.faults.mode}"


@move("Airflow recovers", "world", 1.5, lambda w, _: bool(w.faults.mode))
def _airflow_recovers(world: World, _: int, choice: float) -> str:
    world.faults.mode = ""
    return "Airflow's answers are good again"


@move("Airflow gets slow", "world", 0.5, lambda w, _: w.faults.latency < 1)
def _slow(world: World, _: int, choice: float) -> str:
    world.faults.latency = (2.0, 9.0, 14.0, 20.0)[int(choice * 4)]
    return f"Airflow needs {world.faults.latency:g} s for an answer"


@move("Airflow gets quick", "world", 2, lambda w, _: w.faults.latency >= 1)
def _quick(world: World, _: int, choice: float) -> str:
    world.faults.latency = 0.05
    return "Airflow is quick again"


@move("replica lags", "world", 0.9, lambda w, _: not w.faults.lag)
def _lags(world: World, _: int, choice: float) -> str:
    world.faults.lag = 5.0 + 40.0 * choice
    world.most_lag = max(world.most_lag, world.faults.lag)
    return f"Airflow answers from a replica that is {world.faults.lag:.0f} s late"


@move("replica catches up", "world", 0.7, lambda w, _: bool(w.faults.lag))
def _catches_up(world: World, _: int, choice: float) -> str:
    world.faults.lag = 0.0
    return "Airflow's replica is up to date again"


@move("namespace unreadable", "world", 0.5, lambda w, _: not w.server.faults.unlisted)
def _unlisted(world: World, _: int, choice: float) -> str:
    name = world.config.namespaces[int(choice * 2) % len(world.config.namespaces)]
    world.server.faults.unlisted[name] = "403" if choice < 0.5 else "500"
    return f"namespace {name} can't be listed"


@move("namespace readable", "world", 2, lambda w, _: bool(w.server.faults.unlisted))
def _listed(world: World, _: int, choice: float) -> str:
    world.server.faults.unlisted.clear()
    return "all namespaces can be listed again"


@move("GET fails", "world", 0.3, lambda w, _: not w.server.faults.unread)
def _unread(world: World, _: int, choice: float) -> str:
    world.server.faults.unread = True
    return "single Pods can't be read"


@move("GET works", "world", 2, lambda w, _: w.server.faults.unread)
def _readable(world: World, _: int, choice: float) -> str:
    world.server.faults.unread = False
    return "single Pods can be read again"


DELETES = ("refused", "error", "denied", "throttled", "lost", "silent", "late", "slow to connect")


@move("DELETE fails", "world", 1.6, lambda w, _: not w.server.faults.delete)
def _delete_fails(world: World, _: int, choice: float) -> str:
    world.server.faults.delete = DELETES[int(choice * len(DELETES))]
    return f"DELETEs fail: {world.server.faults.delete}"


@move("DELETE works", "world", 0.8, lambda w, _: bool(w.server.faults.delete))
def _delete_works(world: World, _: int, choice: float) -> str:
    world.server.faults.delete = ""
    return "DELETEs work again"


@move("API server's clock unknown", "world", 0.1, lambda w, _: not w.server.faults.silent_clock)
def _clock_unknown(world: World, _: int, choice: float) -> str:
    world.server.faults.silent_clock = True
    return "the API server does not tell its time"


@move("clock known", "world", 3, lambda w, _: w.server.faults.silent_clock)
def _clock_known(world: World, _: int, choice: float) -> str:
    world.server.faults.silent_clock = False
    return "the API server tells its time"


@move("API server's clock jumps", "world", 0.15, lambda w, _: not w.server.jumped)
def _clock_jumps(world: World, _: int, choice: float) -> str:
    world.server.jump((-600.0, -90.0, 90.0, 600.0)[int(choice * 4)])
    return f"the API server's clock jumps by {world.server.jumped:g} s"


@move("API server's clock returns", "world", 1, lambda w, _: bool(w.server.jumped))
def _clock_returns(world: World, _: int, choice: float) -> str:
    world.server.jump(0.0)
    return "the API server's clock is right again"


@move("database restored", "world", 0.15, lambda w, _: any(len(task.past) > 3 for task in w.ours))
def _restored_database(world: World, _: int, choice: float) -> str:
    then = world.time - (30.0, 120.0, 600.0, 3600.0)[int(choice * 4)]
    for task in world.ours:
        world.doom(task)
        task.restore(then)
    return f"Airflow's database is restored as it was {world.time - then:.0f} s ago"


# --- healers ----------------------------------------------------------------------------------------------------------

HINTS = ("lost", "late", "reversed")


@move("hints fail", "replica", 2.4, lambda w, r: r.alive and r.watcher.mode == "prompt")
def _hints_fail(world: World, replica: Replica, choice: float) -> str:
    replica.watcher.mode = HINTS[int(choice * len(HINTS))]
    world.tally.counts[f"hints: {replica.watcher.mode}"] += 1
    return f"gets its watch's hints {replica.watcher.mode}"


@move("hints work", "replica", 4, lambda w, r: r.alive and r.watcher.mode != "prompt")
def _hints_work(world: World, replica: Replica, choice: float) -> str:
    replica.watcher.mode = "prompt"
    replica.relist()
    return "watches anew"


@move("healer killed", "replica", 1, lambda w, r: r.alive)
def _healer_killed(world: World, replica: Replica, choice: float) -> str:
    replica.kill(arrives=choice < 0.5)
    replica.thaw()
    replica.starts_at = world.time + 1.0 + (choice * 8 % 1) * 60.0
    return "is killed"


@move("healer frozen", "replica", 1, lambda w, r: r.alive and not r.frozen)
def _healer_frozen(world: World, replica: Replica, choice: float) -> str:
    seconds = (1.0, 5.0, 20.0, 60.0, 200.0)[int(choice * 5)] * (0.5 + (choice * 40 % 1))
    replica.freeze(seconds)
    return f"is stopped for {seconds:.1f} s"


def _elects(world: World, replica: Replica) -> bool:
    return not world.alone and replica.alive and replica.elector is not None


@move("healer told to end", "replica", 0.7, lambda w, r: _elects(w, r) and not r.frozen)
def _healer_ends(world: World, replica: Replica, choice: float) -> str:
    replica.resign()
    replica.starts_at = world.time + 8.0 + choice * 60.0
    return "gets SIGTERM"


@move("way to API server breaks", "replica", 1, lambda w, r: not r.link.fault)
def _link_breaks(world: World, replica: Replica, choice: float) -> str:
    replica.link.fault = "refused" if choice < 0.5 else "silent"
    return f"does not reach the API server: {replica.link.fault}"


@move("way to API server works", "replica", 3, lambda w, r: bool(r.link.fault))
def _link_works(world: World, replica: Replica, choice: float) -> str:
    replica.link.fault = ""
    return "reaches the API server again"


LEASES = ("slow", "lost", "denied", "busy")


@move("Lease fails", "replica", 1.2, lambda w, r: _elects(w, r) and not r.lease.fault)
def _lease_fails(world: World, replica: Replica, choice: float) -> str:
    replica.lease.fault = LEASES[int(choice * len(LEASES))]
    return f"has trouble with its Lease: {replica.lease.fault}"


@move("Lease works", "replica", 3, lambda w, r: _elects(w, r) and bool(r.lease.fault))
def _lease_works(world: World, replica: Replica, choice: float) -> str:
    replica.lease.fault = ""
    return "has no trouble with its Lease any more"


@move("Lease deleted", "replica", 0.15, lambda w, r: _elects(w, r) and w.lease.lease is not None)
def _lease_deleted(world: World, replica: Replica, choice: float) -> str:
    world.lease.lease = None
    return "sees somebody delete the Lease"


class Table:
    """The moves that can happen to something in a state, and their weights; for a quick draw."""

    def __init__(self, moves: Sequence[Move]) -> None:
        self.moves = moves
        self.weights = list(accumulate(each.weight for each in moves))
        self.total = self.weights[-1] if moves else 0.0


_TABLES: dict[tuple[str, str | None], Table] = {}


def table(kind: str, state: str | None) -> Table:
    """Return the moves that may be possible for a target of this kind in this state."""
    key = kind, state
    if key not in _TABLES:
        _TABLES[key] = Table([m for m in MOVES.values() if m.kind == kind and (not m.states or state in m.states)])
    return _TABLES[key]


def state_of(kind: str, target: Any) -> str | None:
    """Return what decides which moves may be possible."""
    if kind == "task":
        state: str | None = target.state
        return state
    return target.phase if kind == "pod" else None


_HEAVIEST: dict[str, float] = {}


def heaviest(kind: str) -> float:
    """Return the greatest total of any table of this kind."""
    if kind not in _HEAVIEST:
        states = {state for each in MOVES.values() if each.kind == kind for state in each.states or ()}
        _HEAVIEST[kind] = max(table(kind, state).total for state in (*states, ""))
    return _HEAVIEST[kind]


__all__ = ["DELETES", "DOOMED", "HINTS", "LEASES", "MODES", "MOVES", "Move", "Table", "heaviest", "state_of", "table"]
