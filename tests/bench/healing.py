"""A full healing pass over 10,000 Pods of which 1,000 are to be deleted: rows 1, 2 and 8 of the goals.

kube-janitor deletes the same Pods, told by an annotation of each and without any proof. Those who look at the phase
only get the same number of Pods, all of them done.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from tests.bench import contestants, population
from tests.bench.contestants import Contestant, Watched
from tests.bench.measure import Cost, middle, percentile, run, summary
from tests.bench.population import NAMESPACE, Seat
from tests.bench.world import World
from tests.lab.processes import LabError, say

OURS: Final = "kpo-healer"


def measure(world: World, *, repeat: int, orphans: int = 1_000) -> dict[str, Any]:
    """The part's figures and tables. Every pass begins with the same Pods."""
    mixed, ended = population.orphans(orphans), population.ended_orphans(orphans)
    field = [(contestants.heal(world), mixed), (contestants.kube_janitor(world), mixed)]
    field += [(contestants.cleanup_pods(world), ended), (contestants.kubectl_script(world), ended)]
    costs: dict[str, list[Cost]] = {}
    watched: list[Watched] = []
    for number in range(repeat):  # in turns, so that what else the machine does hits all of them
        for contestant, seats in field:
            if contestant is not None:
                cost = _pass(world, contestant, seats)
                costs.setdefault(contestant.name, []).append(cost)
                if contestant.name == OURS:
                    watched.append(contestants.watched(world))
                say(f"{contestant.name} {number + 1}/{repeat}: {cost.wall:.1f} s, CPU {cost.cpu:.1f} s")
    return {
        "figures": _walls(costs) | _of_one_orphan(costs[OURS], watched, orphans),
        "pods": world.pods,
        "orphans": orphans,
        "airflow_calls": watched[-1].calls,
        "contestants": {name: summary(of_one) for name, of_one in costs.items()},
    }


def _walls(costs: dict[str, list[Cost]]) -> dict[str, float | None]:
    wall = {name: middle(of_one, "wall") for name, of_one in costs.items()}
    ours = wall[OURS]
    janitor = wall.get("kube-janitor")
    return {
        "pass_wall_vs_kube_janitor": round(ours / janitor, 3) if janitor else None,
        "pass_wall_vs_cleanup_pods": round(ours / wall["airflow cleanup-pods"], 3),
    }


def _of_one_orphan(costs: Sequence[Cost], watched: Sequence[Watched], orphans: int) -> dict[str, float | None]:
    """What one healed orphan costs Airflow, its share of the look at all Pods included; and how old evidence gets."""

    def age(percent: int) -> float:
        return round(median(percentile(each.ages, percent) for each in watched), 3)

    return {
        "healed_airflow_cpu_ms": round(median(cost.servers["airflow"] for cost in costs) / orphans * 1000, 2),
        "healed_airflow_calls": round(median(sum(each.calls.values()) for each in watched) / orphans, 2),
        "evidence_age_p50_seconds": age(50),
        "evidence_age_p99_seconds": age(99),
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
