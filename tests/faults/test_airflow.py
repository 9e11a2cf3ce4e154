"""What goes wrong on Airflow's side: nothing is deleted that must not be, and afterwards healing goes on.

A real kpo-healer in enforce mode, real API servers of Airflow and Kubernetes, and between healer and Airflow a proxy
that breaks one thing. Its policy deletes for every reason that may (but where the default is what protects).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.e2e.world import RUN, World
from tests.faults import airflow_faults as bad
from tests.faults import proxy
from tests.faults.airflow_cases import FRESHNESS, QUICK_CASES, SLOW_CASES, Case
from tests.faults.airflow_lanes import PATIENCE, Lane, Watched, bring_back, make, restore, seed_elsewhere, watched
from tests.faults.proxy import Asked, FaultProxy
from tests.lab.airflow import Airflow
from tests.lab.kube import Cluster
from tests.lab.processes import wait_for

pytestmark = pytest.mark.timeout(1500)

OTHER = "3.2.2"
"""The version of the other Airflow behind the same address, and of the one before its upgrade."""

LEFT_ALONE = 12.0
"""Seconds that one Airflow asks for: several audits."""

AUDITS = 3
"""Audits that each fault lasts at least: two sightings and a confirmation suffice to delete."""


@dataclass
class Matrix:
    """All faults at a time, each in its lane."""

    quick: Watched
    slow: Watched
    other: Airflow

    @property
    def lanes(self) -> dict[str, Lane]:
        return {lane.name: lane for lane in (*self.quick.lanes, *self.slow.lanes)}

    def healer(self, lane: Lane) -> Watched:
        return self.slow if lane in self.slow.lanes else self.quick

    @property
    def deleted(self) -> list[str]:
        """The Pods for which a DELETE was sent, in order."""
        return [event.name for event in self.slow.lanes[0].world.deletes()]

    def wait_audits(self) -> None:
        """Until everything was asked about again, often enough to be deleted."""
        for healer in (self.quick, self.slow):
            healer.mark()
        for healer in (self.quick, self.slow):
            healer.wait_audits(AUDITS)

    def begin(self) -> None:
        for lane in self.lanes.values():
            lane.begin()
            if lane.name == "unknown-version":  # asked for at audits alone: until then the known one may heal
                wait_for(lambda lane=lane: lane.met, timeout=PATIENCE, what="the version to be asked for", interval=0.1)
            if lane.name.startswith("other-airflow"):
                lane.proxy.target = self.other.url
            elif lane.name == "upgraded":
                lane.proxy.target = lane.world.airflow.url
            if lane.name == "restored":
                restore(lane)
            else:
                lane.fail()
        self.lanes["slow"].fail("cleared")
        for healer in (self.quick, self.slow):
            healer.mark()

    def last(self) -> None:
        """Until each fault has been met often enough, and no longer than our patience; the lanes tell what is left."""
        end = time.monotonic() + PATIENCE
        while self._note() and time.monotonic() < end:
            time.sleep(1)

    def _note(self) -> bool:
        """What was seen of each fault up to now; whether anything is missing."""
        for healer in (self.quick, self.slow):
            healer.refresh()
        sent = self.deleted
        for lane in self.lanes.values():
            lane.meanwhile = lane.deleted(sent)
            lane.missing = self._missing(lane)
        return any(lane.missing for lane in self.lanes.values())

    def _missing(self, lane: Lane) -> list[str]:
        healer, case = self.healer(lane), lane.case
        came = {
            "the fault": lane.met,
            f"{AUDITS} audits": healer.audits >= AUDITS,
            f"an answer counted as {case.code}": healer.figure("airflow_requests_total", lane, code=case.code) > 0,
            "healing": "orphan" in lane.meanwhile or not case.heals,
            f"a request for {case.asks}": not case.asks or lane.proxy.count(part=case.asks) > 0,
            "too old an answer": case.name != "slow" or self._clears(lane),
            **{f"Pods that are {reason}": healer.figure("pods", lane, reason=reason) > 0 for reason in case.sees},
        }
        lane.came |= {what for what, true in came.items() if true}
        return sorted(came.keys() - lane.came)

    def _clears(self, lane: Lane) -> bool:
        """Whether a Pod was not deleted because the answer was too old; then a task is cleared behind such answers."""
        stale = self.slow.figure("deletions_total", lane, result="stale") > 0
        if stale and not lane.cleared:
            lane.world.airflow.clear(lane.dag, RUN, "cleared")
            lane.cleared = True
        return stale

    def end(self) -> None:
        for lane in self.lanes.values():
            lane.end()
            if lane.name == "restored":
                bring_back(lane)


@pytest.fixture(scope="module")
def matrix(
    cluster: Cluster,
    airflow_of: Callable[[str], Airflow],
    airflow_api: Airflow,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Matrix]:
    """The whole story, up to the end of the faults."""
    other = airflow_of(OTHER)
    with ExitStack() as stack:
        world = stack.enter_context(World.open(cluster, airflow_api, tmp_path_factory.mktemp("faults")))

        def lanes(cases: tuple[Case, ...]) -> list[Lane]:
            return [Lane(case, world, stack.enter_context(FaultProxy(airflow_api.url))) for case in cases]

        quick, slow = lanes(QUICK_CASES), lanes(SLOW_CASES)
        make([*quick, *slow])
        for lane in quick:
            seed_elsewhere(lane, other)
            if lane.name == "upgraded":
                lane.proxy.target = other.url
        made = Matrix(
            stack.enter_context(watched(world, quick, auditInterval="3s")),
            stack.enter_context(watched(world, slow, freshness=f"{FRESHNESS:g}s")),
            other,
        )
        made.begin()
        made.last()
        made.end()
        yield made


@pytest.mark.parametrize("case", [*QUICK_CASES, *SLOW_CASES], ids=str)
def test_fault(matrix: Matrix, case: Case) -> None:
    lane = matrix.lanes[case.name]
    assert lane.missing == []
    assert lane.meanwhile == (["orphan"] if case.heals else [])
    wait_for(lambda: "orphan" not in lane.alive(), timeout=PATIENCE, what="the orphan to be healed", interval=0.2)
    assert lane.alive() == lane.keeps
    assert lane.deleted() == ["orphan"], "one DELETE"


def test_nothing_else_is_deleted(matrix: Matrix) -> None:
    """When all faults are over, and everything was asked about again."""
    orphans = {lane.pod_name("orphan") for lane in matrix.lanes.values()}
    wait_for(lambda: orphans <= set(matrix.deleted), timeout=PATIENCE, what="all orphans to be healed", interval=1)
    matrix.wait_audits()
    assert Counter(matrix.deleted) == Counter(orphans)


def test_a_restart_in_mid_pass(matrix: Matrix) -> None:
    """Airflow's API server is killed while it is being asked, a task fails while it is down, and it comes up again."""
    lane = matrix.lanes["unknown-fields"]
    airflow = lane.world.airflow
    before = matrix.deleted
    with lane.proxy.rule(proxy.after(airflow.api_server.kill), part="/taskInstances/list", times=1) as rule:
        rule.wait(timeout=PATIENCE)
        wait_for(lambda: not airflow.api_server.running, timeout=PATIENCE, what="the end of the API server")
    try:
        lane.fail("used")
        matrix.wait_audits()
        assert matrix.deleted == before
    finally:
        airflow.api_server.start()
    wait_for(lambda: "used" not in lane.alive(), timeout=PATIENCE, what="healing", interval=0.3)
    matrix.wait_audits()
    assert matrix.deleted == [*before, lane.pod_name("used")]


def test_an_airflow_that_wants_to_be_left_alone(matrix: Matrix) -> None:
    """429 with Retry-After: no question comes before that is over; the other Airflows are asked all the while."""
    lane, since = matrix.lanes["429"], list[float]()

    def first_list(asked: Asked) -> bool:
        """And from it on, when each request came."""
        first = not since and bad.lists(asked)
        if since or first:
            since.append(time.monotonic())
        return first

    refusal = proxy.answer(429, {"detail": "slow down"}, {"Retry-After": f"{LEFT_ALONE:g}"})
    with lane.proxy.rule(refusal, when=first_list) as rule:
        rule.wait(timeout=PATIENCE)
        lane.fail("used")
        wait_for(lambda: "used" not in lane.alive(), timeout=PATIENCE, what="healing", interval=0.3)
    assert since[1] - since[0] >= LEFT_ALONE
    assert lane.deleted() == ["orphan", "used"]


def test_what_every_source_says_too_late_is_believed(matrix: Matrix) -> None:
    """The limit: a replica that is behind at all of the sightings and at the confirmation passes for the truth."""
    lane = matrix.lanes["unknown-fields"]
    with lane.proxy.rule(bad.stale("adopted"), when=bad.questions):
        wait_for(lambda: "adopted" not in lane.alive(), timeout=PATIENCE, what="the deletion", interval=0.3)
    assert lane.alive() == lane.keeps - {"used", "adopted"}
