"""A full healing pass over 10,000 Pods of which 1,000 are to be deleted: row 4 of the goals.

kube-janitor deletes the same Pods, told by an annotation of each and without any proof. Those who look at the phase
only get the same number of Pods, all of them done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.bench import contestants, population
from tests.bench.contestants import Contestant
from tests.bench.measure import Cost, middle, run, summary
from tests.bench.population import NAMESPACE, Seat
from tests.bench.world import World
from tests.lab.processes import LabError, say


def measure(world: World, *, repeat: int, orphans: int = 1_000) -> dict[str, Any]:
    """The part's figures and tables. Every pass begins with the same Pods."""
    mixed, ended = population.orphans(orphans), population.ended_orphans(orphans)
    field = [(contestants.heal(world), mixed), (contestants.kube_janitor(world), mixed)]
    field += [(contestants.cleanup_pods(world), ended), (contestants.kubectl_script(world), ended)]
    costs: dict[str, list[Cost]] = {}
    for number in range(repeat):  # in turns, so that what else the machine does hits all of them
        for contestant, seats in field:
            if contestant is not None:
                cost = _pass(world, contestant, seats)
                costs.setdefault(contestant.name, []).append(cost)
                say(f"{contestant.name} {number + 1}/{repeat}: {cost.wall:.1f} s, CPU {cost.cpu:.1f} s")
    return {"figures": _figures(costs), "pods": world.pods, "orphans": orphans} | {
        "contestants": {name: summary(of_one) for name, of_one in costs.items()}
    }


def _figures(costs: dict[str, list[Cost]]) -> dict[str, float | None]:
    wall = {name: middle(of_one, "wall") for name, of_one in costs.items()}
    ours = wall["kpo-healer"]
    janitor = wall.get("kube-janitor")
    return {
        "pass_wall_vs_kube_janitor": round(ours / janitor, 3) if janitor else None,
        "pass_wall_vs_cleanup_pods": round(ours / wall["airflow cleanup-pods"], 3),
    }


def _pass(world: World, contestant: Contestant, seats: Sequence[Seat]) -> Cost:
    world.renew(seats)
    cost = run(world, contestant.args, env=contestant.env, expect=contestant.expect)
    deleted = _deleted(world)
    world.renew(seats)  # nobody else may find the deleted ones
    if deleted != len(seats):
        raise LabError(
            f"{contestant.name} deleted {deleted} Pods where {len(seats)} were to be deleted: {cost.out[-500:]}"
        )
    return cost


def _deleted(world: World) -> int:
    """Pods that are being deleted: no kubelet is there to end them, so all that were deleted are still to be seen."""
    pods = world.cluster.pods(NAMESPACE)
    return sum("deletionTimestamp" in pod["metadata"] for pod in pods) + world.pods - len(pods)
