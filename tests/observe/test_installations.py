"""Two installations at one real Prometheus, one of which restarts: the dashboard tells them apart, and loses nothing.

Their figures come of the healer's own `Metrics`, as many as there are, so that no cluster is needed: what real healers
make of these is what `test_scraped` shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from msgspec import Struct

from healer.config import Mode
from tests.lab.processes import wait_for
from tests.lab.prometheus import Prometheus
from tests.observe import queries
from tests.observe.replica import Replica, served

PATIENCE = 120.0

NEAR = {"$__rate_interval": "30s", "$__range": "30s"}
"""Ranges that are over while a test runs."""

pytestmark = pytest.mark.timeout(600)


class Observed(Struct, frozen=True):
    """Prometheus, and the replicas: two of `payments`, one of `research`."""

    prometheus: Prometheus
    leader: Replica
    standby: Replica
    other: Replica

    def ask(self, expression: str, **chosen: str) -> list[float]:
        for name, value in NEAR.items():
            expression = expression.replace(name, value)
        return self.prometheus.query(queries.filled(expression, **chosen))


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    leader, standby = Replica("prod", Mode.ENFORCE, leads=True), Replica("prod", Mode.ENFORCE, leads=False)
    other = Replica("prod", Mode.REPORT, leads=True)
    with ExitStack() as stack:
        labels = {
            stack.enter_context(served(replica)): {"job": job, "namespace": namespace}
            for replica, job, namespace in (
                (leader, "healer-a", "payments"),
                (standby, "healer-a", "payments"),
                (other, "healer-b", "research"),
            )
        }
        folder = tmp_path_factory.mktemp("installations")
        made = stack.enter_context(Prometheus.start_with(folder, labels, rules=queries.ALERTS))
        seen = Observed(made, leader, standby, other)
        wait_for(lambda: len(made.query("kpo_healer_leader")) == 3, timeout=PATIENCE, what="three replicas")
        grown = 'sum(kpo_healer_deletions_total{result="deleted"})'
        for replica, deletions in ((leader, 7), (standby, 0), (other, 2)):
            replica.live(deletions)
        wait_for(lambda: made.query(grown) == [9.0], timeout=PATIENCE, what="deletions")
        leader.restart()
        wait_for(lambda: made.query(grown) != [9.0], timeout=PATIENCE, what="a restart")
        leader.live(1)
        wait_for(lambda: made.query(grown) == [3.0], timeout=PATIENCE, what="deletions after the restart")
        yield seen


def panel(title: str) -> str:
    found = next(each for each in queries.panels() if each["title"] == title)
    return str(found["targets"][0]["expr"])


def test_every_panel_has_data_of_all_and_of_each(observed: Observed) -> None:
    asked = {
        f"{each['title']} {target['refId']}": target["expr"] for each in queries.panels() for target in each["targets"]
    }

    def without_data() -> list[str]:
        choices: tuple[dict[str, str], ...] = ({}, {"job": "healer-a"}, {"namespace": "research"})
        return [f"{name} {chosen}" for chosen in choices for name in asked if not observed.ask(asked[name], **chosen)]

    wait_for(lambda: without_data() == [], timeout=PATIENCE, what="data for every panel", interval=1)


def test_nobody_sees_what_they_did_not_choose(observed: Observed) -> None:
    choices: tuple[dict[str, str], ...] = ({"job": "nobody"}, {"namespace": "nobody"})
    for each in queries.panels():
        for target in each["targets"]:
            shown = [value for chosen in choices for value in observed.ask(target["expr"], **chosen)]
            assert not any(shown), f"{each['title']}: {shown}"


def test_each_installation_has_one_leader(observed: Observed) -> None:
    assert observed.ask(panel("Leader")) == [1.0, 1.0]
    assert observed.ask(panel("Leader"), namespace="payments") == [1.0]


def test_two_airflows_of_one_name_stay_two(observed: Observed) -> None:
    assert observed.ask(panel("Mode")) == [1.0, 1.0]
    assert len(observed.ask(panel("Last pass"))) == 2


def test_a_restart_neither_loses_nor_undoes_what_was_deleted(observed: Observed) -> None:
    """7 before the restart and 1 after it; Prometheus extrapolates, so that more than half of it is enough."""
    (grown,) = observed.ask(panel("Deleted").replace("$__range", "5m"), namespace="payments")
    assert 7 <= grown <= 16
    (other,) = observed.ask(panel("Deleted").replace("$__range", "5m"), namespace="research")
    assert 1 < other < 5


def test_annotations_mark_what_is_new(observed: Observed) -> None:
    """There is no sample of two minutes ago yet: whatever is, is new."""
    marks = {name: len(observed.prometheus.query(query)) for name, query in queries.annotation_queries().items()}
    assert marks == {"Another leader": 2, "Mode": 2, "Version": 2, "Breaker": 0}
    observed.other.metrics.breaker("prod", True)
    opened = queries.annotation_queries()["Breaker"]
    wait_for(lambda: len(observed.prometheus.query(opened)) == 1, timeout=PATIENCE, what="the breaker's mark")


def test_the_rules_are_well_with_two_of_a_name(observed: Observed) -> None:
    assert observed.prometheus.unhealthy_rules() == {}
