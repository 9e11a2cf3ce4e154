"""A real Prometheus scrapes real healers: every query of the dashboard and of the alerts has data there.

Three healers beside the lab's cluster and Airflow: one deletes and has what it may not touch yet; one only reports,
with its breaker open and a namespace that it may not read; one may not delete what it should, which is used again
later, and one of its Airflows is not there, another one refuses most questions for lack of a right.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.deploy.install import may
from tests.e2e.world import EAGER, RUN, UNLIMITED, World
from tests.lab.airflow import Airflow
from tests.lab.healer import ACCOUNT, RIGHTS, USER, Installation
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import LabError, free_ports, wait_for
from tests.lab.prometheus import Prometheus
from tests.observe import queries
from tests.unit import airflow_fake as af

PATIENCE = 120.0
"""Seconds until a query has data, on a machine that is busy."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def prometheus(
    cluster: Cluster, airflow_api: Airflow, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp("observed") for _ in range(4)]
        worlds = [stack.enter_context(World.open(cluster, airflow_api, folder)) for folder in folders[:3]]
        acting, watching, failing = worlds
        later = EAGER | {"retention": {"succeeded": "1h", "failed": "1h", "kept": "1h"}}
        limits = {"breaker": {"maxShare": 0.1, "minCount": 1}}
        forbidden = cluster.namespace(f"{watching.namespace}-forbidden")
        stack.callback(cluster.delete_namespace, forbidden)
        reporter = watching.installation(limits=limits)
        reporter.config["airflows"][0]["namespaces"].append(forbidden)
        healers = [
            stack.enter_context(acting.installation(policy=later, limits=UNLIMITED).run(mode="enforce")),
            stack.enter_context(reporter.run(mode="report")),
            stack.enter_context(powerless(stack, failing).run(mode="enforce")),
        ]
        # Each an installation of its own: as replicas of one they would differ.
        targets = {healer.url: {"namespace": space} for healer, space in zip(healers, "abc", strict=True)}
        rules = queries.impatient(folders[3] / "alerts.yaml")
        made = stack.enter_context(Prometheus.start_with(folders[3], targets, rules=rules))
        # Counters are seen to grow only if they were seen before.
        wait_for(lambda: len(made.query("kpo_healer_leader == 1")) == len(healers), timeout=PATIENCE, what="leaders")
        for world in worlds:
            set_up(world)
        wait_for(lambda: made.query('sum(kpo_healer_deletions_total{result="deleted"}) > 0'), timeout=PATIENCE)
        failing.wait(lambda: any(line["message"] == "would delete" for line in healers[2].lines()), "a denial")
        airflow_api.update(failing.dag, RUN, "dead", state="running", end_date=None)
        yield made


def powerless(stack: ExitStack, world: World) -> Installation:
    """It may not delete; and nobody listens at the address of its second Airflow, which has a Pod too."""
    cluster = world.cluster
    elsewhere = cluster.namespace(f"{world.namespace}-gone")
    stack.callback(cluster.delete_namespace, elsewhere)
    made = world.installation(limits=UNLIMITED, more_namespaces=[elsewhere])
    demo = made.config["airflows"][0]
    demo["namespaces"].remove(elsewhere)
    gone = {"name": "gone", "namespaces": [elsewhere], "url": f"http://127.0.0.1:{free_ports(1)[0]}"}
    made.config["airflows"].append(copy.deepcopy(demo) | gone)
    made.config["airflows"].append(copy.deepcopy(demo) | strict(stack, cluster, world))
    # A refused connection is tried again: three intervals are to be longer than that.
    made.config["interval"] = "5s"
    cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id="r", namespace=elsewhere))
    pods, *others = RIGHTS
    less = {**pods, "verbs": [verb for verb in pods["verbs"] if verb != "delete"]}
    everywhere = [space for airflow in made.config["airflows"] for space in airflow["namespaces"]]
    cluster.service_account(ACCOUNT, ACCOUNT, [less, *others], namespaces=everywhere)
    wait_for(lambda: not may(cluster, USER, (world.namespace, "pods", "delete")), timeout=PATIENCE, what="no right")
    return made


def strict(stack: ExitStack, cluster: Cluster, world: World) -> dict[str, Any]:
    """An Airflow that accepts the login and lets nobody read task instances, and a Pod to ask it about."""
    fake = stack.enter_context(af.serving())
    fake.intercept = lambda asked: af.error(403, "Forbidden") if "/taskInstances" in asked.path else None
    space = cluster.namespace(f"{world.namespace}-strict")
    stack.callback(cluster.delete_namespace, space)
    cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id=af.RUN, namespace=space))
    password = world.folder / "strict"
    password.write_text(fake.password)
    return {"name": "strict", "namespaces": [space], "url": fake.url, "passwordFile": str(password)}


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
    assert choice["query"]["query"] == 'label_values(kpo_healer_mode{job=~"$job", namespace=~"$namespace"}, airflow)'
    assert prometheus.query('kpo_healer_mode{airflow!=""}')


WRONG = {
    "KpoHealerBreakerOpen",
    "KpoHealerNamespaceUnreadable",
    "KpoHealerAirflowRightMissing",
    "KpoHealerAirflowUnreachable",
    "KpoHealerDeletionsFailing",
    "KpoHealerRegrets",
}
"""What is wrong with these healers."""


def test_alerts_fire_for_what_is_wrong_and_for_nothing_else(prometheus: Prometheus) -> None:
    """Not all at one moment: what is asked about comes and goes. How long each waits is what promtool tests."""
    fired: set[str] = set()

    def all_fired() -> bool:
        fired.update(alert for alert, _ in prometheus.firing())
        return fired >= WRONG

    with suppress(LabError):  # what has fired by then says more
        wait_for(all_fired, timeout=queries.FIRING_PATIENCE, interval=0.5)
    assert fired == WRONG
    assert prometheus.alerts().keys() <= WRONG
    assert prometheus.unhealthy_rules() == {}
