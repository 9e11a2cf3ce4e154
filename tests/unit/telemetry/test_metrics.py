"""The figures: exact names, bounded labels, series that are there from the start; and the server that shows them."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from healer import __version__
from healer.config import AirflowConfig, Config, Mode
from healer.errors import ListenError
from healer.model import ACTING, Action, Amounts, Reason, Withheld
from healer.telemetry.http_server import HttpServer, serve
from healer.telemetry.metrics import RESOURCES, RESULTS, Metrics

CONTRACT = {
    "pods": {"airflow", "reason"},
    "suspects": {"airflow", "reason", "action"},
    "withheld": {"airflow", "why"},
    "deletions_total": {"airflow", "reason", "result"},
    "notices": {"airflow", "notice"},
    "regrets_total": {"airflow", "reason"},
    "healing_delay_seconds": {"airflow"},
    "held_cpu_cores": {"airflow"},
    "held_memory_bytes": {"airflow"},
    "held_extended_resources": {"airflow", "resource"},
    "held_cpu_core_seconds_total": {"airflow"},
    "held_memory_byte_seconds_total": {"airflow"},
    "held_extended_resource_seconds_total": {"airflow", "resource"},
    "reclaimed_cpu_cores_total": {"airflow"},
    "reclaimed_memory_bytes_total": {"airflow"},
    "reclaimed_extended_resources_total": {"airflow", "resource"},
    "ownership_refuted": {"airflow"},
    "breaker_open": {"airflow"},
    "set_aside": {"airflow"},
    "mode": {"airflow", "mode"},
    "airflow_requests_total": {"airflow", "call", "code"},
    "airflow_request_duration_seconds": {"airflow", "call"},
    "airflow_last_success_timestamp_seconds": {"airflow"},
    "kubernetes_requests_total": {"verb", "code"},
    "namespace_readable": {"watched_namespace"},
    "airflow_up": {"airflow"},
    "airflow_login_ok": {"airflow"},
    "airflow_credential_expiry_timestamp_seconds": {"airflow"},
    "airflow_credential_renewable": {"airflow"},
    "airflow_credential_failed_renewals": {"airflow"},
    "lease_conflict": set(),
    "kept_longest_seconds": {"airflow", "reason"},
    "withheld_longest_seconds": {"airflow", "why"},
    "pods_undecodable": {"watched_namespace"},
    "pass_duration_seconds": {"airflow"},
    "last_pass_timestamp_seconds": {"airflow"},
    "leader": set(),
    "watch_restarts_total": set(),
    "build_info": {"version"},
    "config_hash": set(),
    "interval_seconds": set(),
}


class Call(msgspec.Struct, frozen=True):
    call: str
    code: str
    seconds: float


def make_config() -> Config:
    first = AirflowConfig(name="a", namespaces=("x", "y"), url="http://h", token="t", ownership="exclusive")  # type: ignore[arg-type]
    second = AirflowConfig(
        name="b", namespaces=("z",), url="http://h", token="t", mode="enforce", ownership="exclusive"
    )  # type: ignore[arg-type]
    return Config(airflows=(first, second))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(make_config())


@pytest.fixture
def server(metrics: Metrics) -> Iterator[HttpServer]:
    running = serve("127.0.0.1:0", metrics, health=lambda: (True, "fine"), ready=lambda: (False, "not yet"))
    yield running
    running.stop()


def samples(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(v for _, v in sorted(sample.labels.items()))] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[f"kpo_healer_{name}"][tuple(labels[key] for key in sorted(labels))]


def fetch(server: HttpServer, path: str, accept: str = "") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path, headers={"Accept": accept})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers["Content-Type"]


def test_names_and_labels_are_those_of_the_contract(metrics: Metrics) -> None:
    metrics.airflow_call("a", Call("list", "200", 0.1))
    metrics.kubernetes_call("list", "200")
    for tell in (metrics.held, metrics.wasted, metrics.reclaimed):
        tell("a", Amounts(extended={"nvidia.com/gpu": 1.0}))
    seen: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        for sample in family.samples:
            name = sample.name
            if family.type == "histogram":
                name = family.name
            if name.startswith("kpo_healer_"):
                seen.setdefault(name.removeprefix("kpo_healer_"), set()).update(set(sample.labels) - {"le"})
    assert seen == CONTRACT


def test_process_figures_are_there(metrics: Metrics) -> None:
    assert samples(metrics)["process_resident_memory_bytes"][()] > 0


def test_every_series_exists_from_the_start(metrics: Metrics) -> None:
    found = samples(metrics)
    assert set(found["kpo_healer_pods"]) == {(a, r.value) for a in "ab" for r in Reason}
    assert len(found["kpo_healer_suspects"]) == 2 * len(ACTING) * 2
    assert set(found["kpo_healer_withheld"]) == {(a, w.value) for a in "ab" for w in Withheld}
    assert set(found["kpo_healer_regrets_total"]) == {(a, r.value) for a in "ab" for r in ACTING}
    assert set(found["kpo_healer_deletions_total"]) == {(a, r.value, x) for a in "ab" for r in ACTING for x in RESULTS}
    assert set(found["kpo_healer_namespace_readable"]) == {("x",), ("y",), ("z",)}
    assert found["kpo_healer_healing_delay_seconds_count"] == {("a",): 0, ("b",): 0}
    assert found["kpo_healer_build_info"] == {(__version__,): 1}


def test_a_follower_tells_nothing_about_the_airflows() -> None:
    leads = True
    metrics = Metrics(make_config(), is_leader=lambda: leads)
    metrics.deletion("a", "orphaned", "deleted")
    told = samples(metrics)
    leads = False
    left = samples(metrics)
    ours = {
        "leader",
        "kubernetes_requests_total",
        "namespace_readable",
        "pods_undecodable",
        "watch_restarts_total",
        "lease_conflict",
        "build_info",
        "config_hash",
        "interval_seconds",
    }
    assert {name for name in left if name.startswith("kpo_healer_")} == {
        f"kpo_healer_{name}" for name in ours
    } & told.keys()
    assert {name for name in told if name.startswith("process_")} <= left.keys()
    assert (told["kpo_healer_leader"][()], left["kpo_healer_leader"][()]) == (1, 0)
    leads = True
    assert samples(metrics)["kpo_healer_deletions_total"] == told["kpo_healer_deletions_total"], "counts go on"


def test_replicas_have_the_same_hash_and_another_configuration_has_another() -> None:
    """Whoever leads: it is told by each. No secret is in it, nor the address at which it listens."""
    one, same = (
        value(Metrics(make_config(), is_leader=lambda leads=leads: leads), "config_hash") for leads in (True, False)
    )
    first, second = make_config().airflows
    turned = Config(mode="enforce", airflows=(first.model_copy(update={"mode": Mode.ENFORCE}), second))  # type: ignore[arg-type]
    elsewhere = Config(listen=":9090", airflows=(first, second))
    assert one == value(Metrics(elsewhere), "config_hash")
    renewed = Config(airflows=(first.model_copy(update={"token": SecretStr("other")}), second))
    assert (one == same, one == value(Metrics(renewed), "config_hash")) == (True, True)
    assert one != value(Metrics(turned), "config_hash")
    assert one == int(one) > 0


def test_the_hash_is_the_same_in_every_process() -> None:
    """Whose order of a set is another one."""
    asked = (
        "from healer.config import AirflowConfig, Config; from healer.telemetry.metrics import Metrics;"
        "entry = {'name': 'a', 'namespaces': ['x'], 'url': 'http://h', 'token': 't'};"
        "print(Metrics(Config(airflows=(AirflowConfig.model_validate(entry),))).render()[0].decode())"
    )
    told = [
        subprocess.check_output([sys.executable, "-c", asked], text=True, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in "123"
    ]
    assert len({re.findall(r"^kpo_healer_config_hash .*$", text, re.MULTILINE)[0] for text in told}) == 1


def test_what_was_found_is_forgotten_and_what_was_counted_is_not() -> None:
    metrics = Metrics(make_config())
    metrics.pods("a", {Reason.ORPHANED: 3})
    metrics.breaker("a", True)
    metrics.deletion("a", "orphaned", "deleted")
    metrics.forget()
    assert value(metrics, "pods", airflow="a", reason="orphaned") == 0
    assert value(metrics, "breaker_open", airflow="a") == 0
    assert value(metrics, "deletions_total", airflow="a", reason="orphaned", result="deleted") == 1


def test_the_mode_in_force_is_one(metrics: Metrics) -> None:
    assert samples(metrics)["kpo_healer_mode"] == {
        ("a", "report"): 1,
        ("a", "enforce"): 0,
        ("b", "report"): 0,
        ("b", "enforce"): 1,
    }
    metrics.mode("a", Mode.ENFORCE)
    assert value(metrics, "mode", airflow="a", mode="report") == 0


def test_what_is_no_longer_counted_goes_back_to_zero(metrics: Metrics) -> None:
    metrics.pods("a", {Reason.IN_USE: 3, Reason.ORPHANED: 1})
    metrics.suspects("a", {(Reason.ORPHANED, Action.DELETE): 2})
    metrics.withheld("a", {Withheld.BREAKER: 4})
    assert value(metrics, "pods", airflow="a", reason="in-use") == 3
    assert value(metrics, "suspects", airflow="a", reason="orphaned", action="delete") == 2
    assert value(metrics, "withheld", airflow="a", why="breaker") == 4
    metrics.pods("a", {})
    metrics.suspects("a", {})
    metrics.withheld("a", {})
    assert value(metrics, "pods", airflow="a", reason="in-use") == 0
    assert value(metrics, "suspects", airflow="a", reason="orphaned", action="delete") == 0
    assert value(metrics, "withheld", airflow="a", why="breaker") == 0


def test_counts(metrics: Metrics) -> None:
    metrics.deletion("a", Reason.ORPHANED, "deleted")
    metrics.healing_delay("a", 1.5)
    metrics.healing_delay("a", -1)
    metrics.held("a", Amounts(2.5, 1024))
    metrics.breaker("a", True)
    metrics.airflow_call("a", Call("list", "timeout", 2.0))
    metrics.airflow_success("a", 123)
    metrics.kubernetes_call("delete", "409")
    metrics.namespace_readable("x", True)
    metrics.pass_done("a", 0.5, 456)
    assert value(metrics, "deletions_total", airflow="a", reason="orphaned", result="deleted") == 1
    assert value(metrics, "healing_delay_seconds_sum", airflow="a") == 1.5
    assert value(metrics, "held_cpu_cores", airflow="a") == 2.5
    assert value(metrics, "held_memory_bytes", airflow="a") == 1024
    assert value(metrics, "breaker_open", airflow="a") == 1
    assert value(metrics, "airflow_requests_total", airflow="a", call="list", code="timeout") == 1
    assert value(metrics, "airflow_request_duration_seconds_sum", airflow="a", call="list") == 2
    assert value(metrics, "airflow_last_success_timestamp_seconds", airflow="a") == 123
    assert value(metrics, "kubernetes_requests_total", verb="delete", code="409") == 1
    assert value(metrics, "namespace_readable", watched_namespace="x") == 1
    assert value(metrics, "pass_duration_seconds_count", airflow="a") == 1
    assert value(metrics, "last_pass_timestamp_seconds", airflow="a") == 456


def test_resources_are_told_apart_up_to_a_number() -> None:
    metrics = Metrics(make_config())
    many = {f"example.com/r{number:02}": 1.0 for number in range(RESOURCES + 5)}
    metrics.held("a", Amounts(extended=many))
    metrics.wasted("a", Amounts(2.0, 3.0, many))
    found = samples(metrics)
    for name in ("held_extended_resources", "held_extended_resource_seconds_total"):
        told = {labels[1]: amount for labels, amount in found[f"kpo_healer_{name}"].items()}
        assert len(told) == RESOURCES + 1
        assert told["other"] == 5
    assert value(metrics, "held_cpu_core_seconds_total", airflow="a") == 2
    metrics.held("a", Amounts(extended={"example.com/r00": 7.0, "example.com/r99": 1.0}))
    assert value(metrics, "held_extended_resources", airflow="a", resource="example.com/r00") == 7
    assert value(metrics, "held_extended_resources", airflow="a", resource="example.com/r01") == 0
    assert value(metrics, "held_extended_resources", airflow="a", resource="other") == 1


def test_watch_restarts_follow_the_watch(metrics: Metrics) -> None:
    for total in (0, 2, 2, 3):
        metrics.watch_restarts(total)
    assert value(metrics, "watch_restarts_total") == 3


def test_two_instances_do_not_meet() -> None:
    one, other = Metrics(make_config()), Metrics(make_config())
    one.breaker("a", True)
    assert value(other, "breaker_open", airflow="a") == 0


def test_serves_the_figures(server: HttpServer) -> None:
    status, body, content_type = fetch(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert "kpo_healer_build_info" in body
    status, body, content_type = fetch(server, "/metrics?x=y", "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_serves_the_probes(server: HttpServer) -> None:
    assert fetch(server, "/healthz")[:2] == (200, "fine\n")
    assert fetch(server, "/readyz")[:2] == (503, "not yet\n")
    status, body, _ = fetch(server, "/")
    assert status == 404
    assert "/metrics /healthz /readyz" in body


def test_every_interface_means_both_families(metrics: Metrics) -> None:
    running = serve(":0", metrics, health=lambda: (True, ""), ready=lambda: (True, ""))
    try:
        assert fetch(running, "/healthz")[0] == 200
    finally:
        running.stop()


def test_stop_frees_the_port(metrics: Metrics) -> None:
    running = serve("127.0.0.1:0", metrics, health=lambda: (True, ""), ready=lambda: (True, ""))
    running.stop()
    with pytest.raises(ConnectionRefusedError):
        fetch(running, "/healthz")


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_taken_port_is_one_sentence(metrics: Metrics, host: str) -> None:
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        address = f"{host}:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=r"can't listen on .*: Address already in use: choose another address"):
            serve(address, metrics, health=lambda: (True, ""), ready=lambda: (True, ""))


def test_a_foreign_address_is_one_sentence(metrics: Metrics) -> None:
    with pytest.raises(ListenError, match=r"can't listen on 192\.0\.2\.1:0"):
        serve("192.0.2.1:0", metrics, health=lambda: (True, ""), ready=lambda: (True, ""))


def test_a_failing_check_does_not_end_the_server(metrics: Metrics) -> None:
    def broken() -> tuple[bool, str]:
        raise RuntimeError("a bug")

    running = serve("127.0.0.1:0", metrics, health=broken, ready=lambda: (True, "fine"))
    try:
        assert fetch(running, "/healthz")[0] == 500
        assert fetch(running, "/readyz")[0] == 200
    finally:
        running.stop()
