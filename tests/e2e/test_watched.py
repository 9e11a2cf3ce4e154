"""What a monitoring system sees of `kpo-healer run`: figures, probes, and a stop that is clean."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.world import World
from tests.lab.airflow import Airflow
from tests.lab.door import Door
from tests.lab.healer import Installation, Running
from tests.lab.processes import free_ports, wait_for

METRICS: Mapping[str, set[str]] = {
    "pods": {"airflow", "reason"},
    "suspects": {"airflow", "reason", "action"},
    "withheld": {"airflow", "why"},
    "deletions": {"airflow", "reason", "result"},
    "notices": {"airflow", "notice"},
    "regrets": {"airflow", "reason"},
    "healing_delay_seconds": {"airflow"},
    "held_cpu_cores": {"airflow"},
    "held_memory_bytes": {"airflow"},
    "held_extended_resources": {"airflow", "resource"},
    "held_cpu_core_seconds": {"airflow"},
    "held_memory_byte_seconds": {"airflow"},
    "held_extended_resource_seconds": {"airflow", "resource"},
    "reclaimed_cpu_cores": {"airflow"},
    "reclaimed_memory_bytes": {"airflow"},
    "reclaimed_extended_resources": {"airflow", "resource"},
    "breaker_open": {"airflow"},
    "mode": {"airflow", "mode"},
    "airflow_requests": {"airflow", "call", "code"},
    "airflow_request_duration_seconds": {"airflow", "call"},
    "airflow_last_success_timestamp_seconds": {"airflow"},
    "kubernetes_requests": {"verb", "code"},
    "namespace_readable": {"watched_namespace"},
    "airflow_up": {"airflow"},
    "airflow_login_ok": {"airflow"},
    "airflow_credential_renewable": {"airflow"},
    "airflow_credential_failed_renewals": {"airflow"},
    "airflow_credential_expiry_timestamp_seconds": {"airflow"},
    "lease_conflict": set(),
    "kept_longest_seconds": {"airflow", "reason"},
    "withheld_longest_seconds": {"airflow", "why"},
    "ownership_refuted": {"airflow"},
    "set_aside": {"airflow"},
    "pods_undecodable": {"watched_namespace"},
    "pass_duration_seconds": {"airflow"},
    "last_pass_timestamp_seconds": {"airflow"},
    "leader": set(),
    "watch_restarts": set(),
    "interval_seconds": set(),
    "build_info": {"version"},
    "config_hash": set(),
}
"""Every name, with its labels; counters without their `_total`."""


@pytest.fixture
def occupied(world: World) -> World:
    """A world with a running task's Pod, a leftover and an orphan."""
    world.seed(world.task("alive", "running"), world.task("dead", "failed"), world.task("over", "success"))
    for task in ("alive", "dead"):
        world.pod(task, name=task, requests={"cpu": "2", "memory": "1Gi", "nvidia.com/gpu": "1"})
    world.ended("over", name="over")
    return world


def impatient(world: World) -> Installation:
    """Whose health check gives up after three seconds without any step."""
    installation = world.installation()
    installation.config["airflows"][0]["timeout"] = "1s"
    return installation


def probe(healer: Running, path: str = "/healthz") -> tuple[int, str]:
    answer = httpx.get(f"{healer.url}{path}", trust_env=False)
    return answer.status_code, answer.text


def samples(healer: Running) -> dict[str, list[dict[str, str]]]:
    """The labels of all series of kpo-healer's own, by the name of their family."""
    text = httpx.get(f"{healer.url}/metrics", trust_env=False).text
    families = text_string_to_metric_families(text)
    prefix = "kpo_healer_"
    return {
        family.name.removeprefix(prefix): [dict(sample.labels) for sample in family.samples]
        for family in families
        if family.name.startswith(prefix)
    }


@contextmanager
def frozen(airflow: Airflow) -> Iterator[None]:
    """Connections stay open and nothing is answered."""
    airflow.api_server.freeze()
    try:
        yield
    finally:
        airflow.api_server.thaw()


def test_every_figure_has_its_labels_and_no_others(occupied: World) -> None:
    with occupied.installation().run(mode="enforce") as healer:
        occupied.wait_names({"alive"})
        wait_for(lambda: healer.metric("held_cpu_cores") == 0, what="the figures after the healing")
        seen = samples(healer)
        assert healer.metric("deletions_total", result="deleted") == 2
        assert healer.metric("healing_delay_seconds_count") == 2
        assert healer.metric("reclaimed_cpu_cores_total") >= 2
        assert healer.metric("reclaimed_extended_resources_total", resource="nvidia.com/gpu") == 1
        assert healer.metric("held_cpu_core_seconds_total") > 0
        assert healer.metric("pods", reason="in-use") == healer.metric("pods") == 1
        assert healer.metric("mode", mode="enforce") == healer.metric("namespace_readable") == 1
        assert healer.stop() == 0
    assert seen.keys() == METRICS.keys()
    for name, series in seen.items():
        assert series, name
        assert {frozenset(labels) - {"le"} for labels in series} == {frozenset(METRICS[name])}, name
    values = {value for series in seen.values() for labels in series for value in labels.values()}
    assert not values & {occupied.dag, "r", "alive", "dead", "over"} - {occupied.namespace}


def test_what_suspects_hold_is_told(occupied: World) -> None:
    with occupied.installation().run(mode="report") as healer:
        wait_for(lambda: healer.metric("withheld", why="report-mode") == 2, what="two Pods withheld")
        orphan = healer.metric("held_cpu_cores")
        assert orphan >= 2
        assert healer.metric("held_memory_bytes") >= 2**30
        assert healer.metric("held_extended_resources", resource="nvidia.com/gpu") == 1
        assert healer.metric("suspects", reason="orphaned", action="delete") == 1
        assert healer.stop() == 0


def test_health_turns_bad_when_the_deciding_thread_hangs(occupied: World) -> None:
    there = occupied.folder / "hang"
    healer = impatient(occupied).run(mode="report")
    healer.args = [*healer.args[:2], "tests.e2e.stuck", there, *healer.args[3:]]
    with healer:
        healer.wait_passes(2)
        assert probe(healer)[0] == 200
        there.touch()
        wait_for(lambda: probe(healer)[0] == 503, timeout=60, what="a bad /healthz")
        assert "the last step ended" in probe(healer)[1]
        assert probe(healer, "/readyz")[0] == 200
        assert healer.stop() == 0


def test_health_stays_good_while_airflow_is_silent(occupied: World) -> None:
    with impatient(occupied).run(mode="enforce") as healer, frozen(occupied.airflow):
        healed = health_while(healer, lambda: timeouts(healer) >= 5)
        assert healer.stop(timeout=5) == 0
    assert healed == {200}


def timeouts(healer: Running) -> float:
    """Requests to Airflow that did not end well."""
    total = healer.metric("airflow_requests_total")
    good = healer.metric("airflow_requests_total", code="200") + healer.metric("airflow_requests_total", code="201")
    return total - good


def test_health_stays_good_while_airflow_is_down(occupied: World) -> None:
    (nobody,) = free_ports(1)
    with impatient(occupied).run(mode="enforce", url=f"http://127.0.0.1:{nobody}") as healer:
        goal = healer.metric("pass_duration_seconds_count") + 8
        healed = health_while(healer, lambda: healer.metric("pass_duration_seconds_count") >= goal)
        assert healer.metric("pods", reason="airflow-unknown") == 3
        assert healer.metric("airflow_last_success_timestamp_seconds") == 0
        assert healer.stop() == 0
    assert healed == {200}
    assert occupied.names() == {"alive", "dead", "over"}
    assert occupied.deletes() == []


def health_while(healer: Running, over: Callable[[], bool]) -> set[int]:
    """The answers of /healthz until the condition holds."""
    seen: set[int] = set()

    def look() -> bool:
        seen.add(probe(healer)[0])
        return over()

    wait_for(look, timeout=120, what="enough passes", interval=0.2)
    return seen


def test_a_stop_is_clean_while_airflow_is_silent(occupied: World) -> None:
    """In the middle of a question, with a patience of a minute for its answer; killed, it would not end with 0."""
    asked, over = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        over.wait()

    with Door(occupied.airflow.url) as door, occupied.installation().run(mode="enforce", url=door.url) as healer:
        occupied.wait_names({"alive"})
        door.once("/taskInstances", hold)
        try:
            assert asked.wait(timeout=60), "nothing was asked"
            assert healer.stop(timeout=5) == 0
        finally:
            over.set()
    assert healer.lines()[-1]["message"] == "stopped"
