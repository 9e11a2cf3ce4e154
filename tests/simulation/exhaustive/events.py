"""What can happen besides the healer's own steps. Each event is a function from a world to the next one, or to None
where it can't happen. Its docstring is how the story tells it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from healer.decision.rules import DEFAULT_BASE, ENDED
from healer.model import Container, Pod
from tests.simulation.exhaustive.model import MOST_PODS, MOST_TRIES, WAITING, Worker, World, is_over

Step = Callable[[World], World | None]


class Event(Struct, frozen=True):
    """One event: its name, its group in the report, its words, and what it does."""

    name: str
    group: str
    words: str
    step: Step


EVENTS: list[Event] = []


def event(group: str) -> Callable[[Step], Step]:
    """Register an event."""

    def register(step: Step) -> Step:
        EVENTS.append(Event(step.__name__, group, (step.__doc__ or "").rstrip("."), step))
        return step

    return register


# --- Airflow's scheduler ----------------------------------------------------------------------------------------------


@event("next try")
def schedule(world: World) -> World | None:
    """The next try is scheduled."""
    row = world.row
    if row.state not in {None, "up_for_retry"} or row.number >= MOST_TRIES:
        return None
    return replace(world.with_row(state="scheduled", number=row.number + 1, end=None), holder=None)


@event("next try")
def start(world: World) -> World | None:
    """The task instance gets a worker."""
    if world.row.state not in WAITING:
        return None
    if world.holder is None:
        return replace(world.with_row(state="running", end=None, xcom=None), holder=Worker(world.row.number))
    running = world.with_row(state="running", end=None)
    return _failed(running) if world.holder.failing else running


# --- the operator -----------------------------------------------------------------------------------------------------


def _working(world: World, *stages: str) -> Worker | None:
    holder = world.holder
    if world.row.state != "running" or holder is None or holder.lost or holder.stage not in stages:
        return None
    return holder


def _search(world: World, worker: Worker) -> tuple[World, Worker] | None:
    found = [pod for pod in map(world.pod, world.candidates()) if pod is not None]
    if len(found) > 1:
        return world, replace(worker, failing=True, stage="ending")
    if found and not _replaced(world, found[0]):
        return world, replace(worker, pod=found[0].uid, stage="made")
    if len(world.versions) >= MOST_PODS:
        return None
    world = world.deleted(found[0].uid) if found else world
    world = world.created(worker.number)
    return world, replace(worker, pod=world.pods[-1].uid, stage="made")


def _replaced(world: World, pod: Pod) -> bool:
    over = {"delete_pod": {"Succeeded", "Failed"}, "delete_succeeded_pod": {"Succeeded"}}
    return pod.phase in over.get(world.setup.on_finish, set())


@event("adopt or create")
def search(world: World) -> World | None:
    """The worker looks for its Pod: it adopts what it finds, or creates one."""
    worker = _working(world, "search")
    done = _search(world, worker) if worker else None
    return replace(done[0], holder=done[1]) if done else None


@event("adopt or create")
def persist(world: World) -> World | None:
    """The worker writes down which Pod it uses."""
    worker = _working(world, "made")
    if worker is None:
        return None
    pod, setup = world.pod(worker.pod), world.setup
    watching = replace(world, holder=replace(worker, stage="watching"))
    if pod is None:
        return watching
    stored = pod.name if setup.store and setup.reattach else world.row.stored
    return watching.with_row(stored=stored, xcom=pod.name if setup.xcom else world.row.xcom)


@event("duplicates")
def patch_duplicate(world: World) -> World | None:
    """The worker finds an older Pod beside its own, marks it and deletes it."""
    worker = _working(world, "watching")
    if worker is None or world.setup.reattach or world.setup.deferrable:
        return None
    others = [pod for pod in world.pods if pod.uid != worker.pod and not pod.checked]
    if not others:
        return None
    marked = world.with_pod(others[0].uid, checked=True)
    return marked.deleted(others[0].uid) if world.setup.on_finish == "delete_pod" else marked


@event("deferral")
def defer(world: World) -> World | None:
    """The task instance is deferred."""
    worker = _working(world, "watching")
    pod = world.pod(worker.pod) if worker else None
    if worker is None or not world.setup.deferrable or pod is None or is_over(pod):
        return None
    return replace(world.moved("deferred"), holder=replace(worker, stage="deferred"))


def _fire(world: World, *, failing: bool) -> World | None:
    holder = world.holder
    if world.row.state != "deferred" or holder is None:
        return None
    pod = world.pod(holder.pod)
    if not failing and pod is not None and not is_over(pod):
        return None
    resuming = replace(holder, stage="resuming", failing=failing)
    return replace(world.moved("scheduled"), holder=resuming)


@event("deferral")
def trigger_fires(world: World) -> World | None:
    """The trigger fires: the task instance is scheduled to resume."""
    return _fire(world, failing=False)


@event("deferral")
def trigger_dies(world: World) -> World | None:
    """The trigger dies: the task instance is scheduled to fail."""
    return _fire(world, failing=True)


def _clean_up(world: World, *, late: bool, lost: bool) -> World | None:
    worker = _working(world, "watching", *(() if late else ("resuming",)))
    pod = world.pod(worker.pod) if worker else None
    if worker is None or (late and (pod is None or is_over(pod))) or (not late and pod and not is_over(pod)):
        return None
    failing = late or worker.failing or pod is None or not _succeeded(pod)
    ending = replace(world, holder=replace(worker, stage="ending", failing=failing))
    return ending if lost or pod is None else _mark_and_delete(ending, pod)


def _mark_and_delete(world: World, pod: Pod) -> World:
    action, good = world.setup.on_finish, _succeeded(pod)
    deletes = action == "delete_pod" or (action == "delete_succeeded_pod" and good)
    if pod.phase != "Succeeded" or not deletes:
        world = world.with_pod(pod.uid, checked=True)
    return world.deleted(pod.uid) if deletes else world


def _succeeded(pod: Pod) -> bool:
    return pod.phase == "Succeeded" or any(c.exit_code == 0 for c in pod.containers if c.name == DEFAULT_BASE)


@event("KPO marks and deletes")
def clean_up(world: World) -> World | None:
    """The worker finds its Pod done, marks it and deletes it as its author wants."""
    return _clean_up(world, late=False, lost=False)


@event("KPO marks and deletes")
def clean_up_lost(world: World) -> World | None:
    """The worker finds its Pod done, and can't clean up."""
    return _clean_up(world, late=False, lost=True)


@event("KPO marks and deletes")
def time_out(world: World) -> World | None:
    """The worker times out, and cleans up."""
    return _clean_up(world, late=True, lost=False)


@event("task ends")
def end(world: World) -> World | None:
    """The task instance ends as its worker says."""
    worker = _working(world, "ending")
    if worker is None:
        return None
    return _failed(world) if worker.failing else replace(world.moved("success"), holder=None)


def _failed(world: World) -> World:
    again = world.row.number <= world.tries
    return replace(world.moved("up_for_retry" if again else "failed", anew=again), holder=None)


# --- deaths -----------------------------------------------------------------------------------------------------------


def _killed(world: World, worker: Worker, *, cleanly: bool) -> World:
    return world.deleted(worker.pod) if cleanly and worker.pod and worker.stage != "search" else world


@event("worker death")
def worker_killed(world: World) -> World | None:
    """The worker is killed and leaves its Pod; the try has failed."""
    worker = _working(world, "search", "made", "watching", "resuming", "ending")
    return _failed(world) if worker else None


@event("worker death")
def worker_stopped(world: World) -> World | None:
    """The worker is stopped and deletes its Pod; the try has failed."""
    worker = _working(world, "made", "watching", "resuming")
    return _failed(_killed(world, worker, cleanly=True)) if worker else None


@event("worker death")
def worker_lost(world: World) -> World | None:
    """The worker's node is cut off."""
    worker = _working(world, "search", "made", "watching")
    return replace(world, holder=replace(worker, lost=True)) if worker else None


@event("worker death")
def heartbeat_missed(world: World) -> World | None:
    """The scheduler misses the lost worker's heartbeat; the try has failed."""
    holder = world.holder
    if world.row.state != "running" or holder is None or not holder.lost:
        return None
    return replace(_failed(world), zombies=(*world.zombies, holder))


@event("worker death")
def zombie_deletes(world: World) -> World | None:
    """The old worker learns that its try is not its own any more, and deletes its Pod."""
    return _zombie(world, cleanly=True)


@event("worker death")
def zombie_dies(world: World) -> World | None:
    """The old worker learns that its try is not its own any more, and dies."""
    return _zombie(world, cleanly=False)


def _zombie(world: World, *, cleanly: bool) -> World | None:
    if not world.zombies:
        return None
    first, *others = world.zombies
    if cleanly and (first.stage == "search" or world.pod(first.pod) is None):
        return None
    return replace(_killed(world, first, cleanly=cleanly), zombies=tuple(others))


@event("worker death")
def zombie_creates(world: World) -> World | None:
    """The old worker still looks for its Pod: it adopts what it finds, or creates one."""
    first = world.zombies[0] if world.zombies else None
    if first is None or first.stage != "search" or first.number != world.row.number:
        return None
    done = _search(world, first)
    return replace(done[0], zombies=(done[1], *world.zombies[1:])) if done else None


# --- users ------------------------------------------------------------------------------------------------------------


def _doomed(world: World) -> World:
    """Take the task instance from its worker, which lives a little longer."""
    holder = world.holder
    lives = holder is not None and holder.stage != "ending"
    zombies = (*world.zombies, holder) if lives and holder is not None else world.zombies
    return replace(world, holder=None, zombies=zombies)


@event("task ends")
def marked_success(world: World) -> World | None:
    """A user marks the task instance success."""
    return _doomed(world.moved("success")) if world.row.state != "success" and world.row.number else None


@event("task ends")
def marked_failed(world: World) -> World | None:
    """A user marks the task instance failed."""
    return _doomed(world.moved("failed")) if world.row.state not in {"failed", "success"} and world.row.number else None


@event("clear")
def clear(world: World) -> World | None:
    """A user clears the task instance."""
    state = world.row.state
    if not world.row.number or not (state in ENDED or state in {"up_for_retry", "running", "deferred"}):
        return None
    cleared = world.moved("restarting" if state == "running" else None, anew=True)
    return replace(_doomed(cleared), tries=world.row.number + 1)


@event("clear")
def restart(world: World) -> World | None:
    """The cleared task instance is ready for its next try."""
    return world.moved(None) if world.row.state == "restarting" else None


# --- Pods -------------------------------------------------------------------------------------------------------------


def _of_pod(number: int, change: Callable[[World, Pod], World | None]) -> Step:
    def step(world: World) -> World | None:
        pod = world.pod(f"uid-{number}")
        return change(world, pod) if pod is not None else None

    return step


def _starts(world: World, pod: Pod) -> World | None:
    return world.with_pod(pod.uid, phase="Running") if pod.phase == "Pending" and not pod.terminating else None


def _ends(world: World, pod: Pod, code: int) -> World | None:
    if pod.phase != "Running":
        return None
    base = (Container(DEFAULT_BASE, True, code, world.server_time),)
    return world.with_pod(pod.uid, phase="Succeeded" if code == 0 else "Failed", containers=base)


def _succeeds(world: World, pod: Pod) -> World | None:
    return _ends(world, pod, 0)


def _fails(world: World, pod: Pod) -> World | None:
    return _ends(world, pod, 1)


def _touched(world: World, pod: Pod) -> World | None:
    # Once is enough: what matters is that its resourceVersion is another one.
    return world.with_pod(pod.uid, protected=True) if not pod.protected else None


def _deleted(world: World, pod: Pod) -> World | None:
    return world.deleted(pod.uid) if not pod.terminating else None


for _number in range(1, MOST_PODS + 1):
    EVENTS += [
        Event(f"pod_{_number}_starts", "Pod phase", f"Pod {_number} starts", _of_pod(_number, _starts)),
        Event(
            f"pod_{_number}_succeeds", "Pod phase", f"Pod {_number} succeeds", _of_pod(_number, partial(_ends, code=0))
        ),
        Event(f"pod_{_number}_fails", "Pod phase", f"Pod {_number} fails", _of_pod(_number, partial(_ends, code=1))),
        Event(f"protect_{_number}", "users and Pods", f"a user protects Pod {_number}", _of_pod(_number, _touched)),
        Event(f"delete_{_number}", "users and Pods", f"a user deletes Pod {_number}", _of_pod(_number, _deleted)),
    ]


# --- faults -----------------------------------------------------------------------------------------------------------


def _airflow(world: World, mode: str) -> World | None:
    if bool(world.airflow) == bool(mode) or (mode == "stale" and world.row == world.before.row):
        return None
    return replace(world, airflow=mode)


_MODES = {
    "stale": "Airflow answers from a replica that lags by one change",
    "down": "Airflow fails",
    "nameless": "Airflow can't say which Pod it uses",
    "": "Airflow's answers are fresh and whole again",
}
EVENTS += [
    Event(f"airflow_{mode or 'good'}", "Airflow's answers", words, partial(_airflow, mode=mode))
    for mode, words in _MODES.items()
]


def _link(world: World, index: int, link: str) -> World | None:
    if bool(world.sides[index].link) == bool(link):
        return None
    return world.with_side(index, link=link)


_LINKS = {
    "cut": "can't reach the API server",
    "deaf": "gets no answers from the API server",
    "late": "gets no answers, and its DELETEs arrive late",
    "": "reaches the API server again",
}
for _index, _name in enumerate("AB"):
    EVENTS += [
        Event(
            f"{_name}_{link or 'linked'}",
            "API server's answers",
            f"replica {_name} {words}",
            partial(_link, index=_index, link=link),
        )
        for link, words in _LINKS.items()
    ]


@event("late DELETE")
def late_lost(world: World) -> World | None:
    """A late DELETE is lost for good."""
    return replace(world, late=world.late[1:]) if world.late else None


# --- time -------------------------------------------------------------------------------------------------------------


def later(world: World, seconds: float) -> World:
    """Let time pass, and Pods vanish whose time is over."""
    now = world.now + seconds
    gone = {uid for uid, at in world.gone_at if at <= now}
    then = replace(world, now=now)
    if gone:
        left = tuple(pod for pod in world.pods if pod.uid not in gone)
        then = replace(then, pods=left, gone_at=tuple(each for each in world.gone_at if each[0] not in gone))
    return then


EVENTS += [
    Event("8s", "time", "8 s pass, less than a term of the Lease", partial(later, seconds=8.0)),
    Event(
        "16s",
        "time",
        "16 s pass, too long for the Lease and for evidence",
        partial(later, seconds=16.0),
    ),
]
