"""A real Prometheus scrapes real healers: every query of the dashboard and of the alerts has data there.

Two healers beside the lab's cluster and Airflow: one deletes and has what it may not touch yet, the other only reports,
with its breaker open and a namespace that it may not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.world import EAGER, UNLIMITED, World
from tests.lab.airflow import Airflow
from tests.lab.kube import Cluster
from tests.lab.processes import wait_for
from tests.lab.prometheus import Prometheus
from tests.observe import queries

PATIENCE = 120.0
"""Seconds until a query has data, on a machine that is busy."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def prometheus(
    cluster: Cluster, airflow_api: Airflow, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp("observed") for _ in range(3)]
        acting, watching = (stack.enter_context(World.open(cluster, airflow_api, folder)) for folder in folders[:2])
        later = EAGER | {"retention": {"succeeded": "1h", "failed": "1h", "kept": "1h"}}
        limits = {"breaker": {"maxShare": 0.1, "minCount": 1}}
        forbidden = cluster.namespace(f"{watching.namespace}-forbidden")
        stack.callback(cluster.delete_namespace, forbidden)
        reporter = watching.installation(limits=limits)
        reporter.config["airflows"][0]["namespaces"].append(forbidden)
        healers = [
            stack.enter_context(acting.installation(policy=later, limits=UNLIMITED).run(mode="enforce")),
            stack.enter_context(reporter.run(mode="report")),
        ]
        targets = [healer.url for healer in healers]
        made = stack.enter_context(Prometheus.start_with(folders[2], targets, rules=queries.ALERTS))
        # Counters are seen to grow only if they were seen before.
        wait_for(lambda: len(made.query("kpo_healer_leader == 1")) == len(healers), timeout=PATIENCE, what="leaders")
        for world in (acting, watching):
            set_up(world)
        wait_for(lambda: made.query('sum(kpo_healer_deletions_total{result="deleted"}) > 0'), timeout=PATIENCE)
        yield made


def set_up(world: World) -> None:
    """A Pod in use, an orphan, and one whose retention is not over."""
    world.seed(world.task("alive", "running"), world.task("dead", "failed"), world.task("over", "success"))
    world.pod("alive", name="alive")
    world.pod("dead", name="dead", requests={"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"})
    world.ended("over", name="over")


def test_every_query_has_data(prometheus: Prometheus) -> None:
    asked = queries.dashboard_queries() | queries.alert_queries()

    def without_data() -> list[str]:
        return [f"{name}: {query}" for name, query in asked.items() if not prometheus.query(query)]

    missing = without_data()
    if missing:  # a rate needs a second scrape, a quantile an event
        try:
            wait_for(lambda: not without_data(), timeout=PATIENCE, what="data for every query", interval=1)
        finally:
            missing = without_data()
    assert missing == []


def test_every_name_is_one_of_the_healers(prometheus: Prometheus) -> None:
    asked = (queries.dashboard_queries() | queries.alert_queries()).values()
    assert set().union(*map(queries.named, asked)) - prometheus.names() == set()


def test_the_choice_of_airflows_is_theirs(prometheus: Prometheus) -> None:
    (choice,) = [v for v in queries.dashboard()["templating"]["list"] if v["name"] == "airflow"]
    assert choice["query"]["query"] == "label_values(kpo_healer_mode, airflow)"
    assert prometheus.query('kpo_healer_mode{airflow!=""}')


def test_alerts_are_up_for_what_is_wrong_and_for_nothing_else(prometheus: Prometheus) -> None:
    """Pending is enough: how long each waits is what promtool tests."""
    wrong = {"KpoHealerBreakerOpen", "KpoHealerNamespaceUnreadable"}
    wait_for(lambda: wrong <= prometheus.alerts().keys(), timeout=PATIENCE, what=f"{wrong}: {prometheus.alerts()}")
    assert prometheus.alerts().keys() <= wrong
    assert prometheus.unhealthy_rules() == {}
