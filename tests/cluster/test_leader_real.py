"""Two replicas on the real API server: who acts when the leader is killed, stopped, cut off, or frozen."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.replicas import (
    DEADLINE,
    DURATION,
    PATIENCE,
    RETRY,
    TERMS,
    Pair,
    Replica,
    airflow,
    holder_of,
    pair,
    times,
)
from tests.faults.proxy import FaultProxy
from tests.lab.healer import ACCOUNT, RIGHTS, Installation
from tests.lab.kube import Cluster
from tests.unit.cli_world import Server

SLACK = 60.0
"""Seconds that a busy machine may add to what is measured by its clock; what must hold strictly has none."""


SHORT = {"leaseDuration": "3s", "renewDeadline": "2s", "retryPeriod": "300ms"}


@pytest.fixture
def web() -> Iterator[Server]:
    with airflow() as server:
        yield server


@pytest.fixture
def two(cluster: Cluster, namespace: str, tmp_path: Path, web: Server) -> Iterator[Pair]:
    with pair(cluster, namespace, tmp_path, f"http://127.0.0.1:{web.port}") as made:
        yield made


def take_over(two: Pair, old: Replica, new: Replica) -> float:
    """Wait until the new one leads. Return the seconds between the last renewal of the old and that."""
    two.wait(lambda: two.holder() == new.user, f"{new.name}'s leadership")
    writes = two.lease_writes()
    last = max(write.received for write in writes if write.user == old.user)
    first = min(write.received for write in writes if write.user == new.user and write.received > last)
    return (first - last).total_seconds()


def families(replica: Replica) -> set[str]:
    """The names of the series that tell about an Airflow."""
    text = httpx.get(f"{replica.healer.url}/metrics", trust_env=False).text
    return {line.partition("{")[0] for line in text.splitlines() if 'airflow="' in line}


def probe(replica: Replica, path: str) -> int:
    return httpx.get(f"{replica.healer.url}{path}", trust_env=False).status_code


def test_a_leader_that_stops_hands_over_and_one_that_is_killed_is_followed(two: Pair) -> None:
    two.start_both()
    old, new = two.leader()
    two.wait(old.leads, "that it knows")
    two.wait_gone(two.orphan())
    assert {event.user for event in two.deletes()} == {old.user}
    assert (families(new), probe(new, "/healthz"), probe(new, "/readyz")) == (set(), 200, 200)
    assert families(old)
    assert not [line for line in new.healer.lines() if line.get("airflow") or line.get("pod")], "it decides nothing"

    assert old.healer.stop() == 0
    assert take_over(two, old, new) <= RETRY + SLACK
    given = [write for write in two.lease_writes() if holder_of(write) is None]
    assert [write.user for write in given] == [old.user], "it gave the Lease away, so that nobody had to wait"
    two.wait(lambda: families(new), "the new leader's figures")

    two.start(old)
    new.healer.kill()
    left = two.orphan()
    seconds = take_over(two, new, old)
    assert DURATION - RETRY <= seconds <= DURATION + RETRY + SLACK
    two.wait_gone(left)
    assert two.deletes(name=left)[0].user == old.user
    assert two.late() == []


def test_a_leader_that_is_cut_off_stops_before_another_starts(two: Pair) -> None:
    """Its Lease can't be renewed, the other's view is clear; then it comes back as a follower."""
    cut, free = two.replicas
    with FaultProxy(two.cluster.url, ca=two.cluster.ca) as proxy:
        cut.installation = replace(cut.installation, kubeconfig=proxy.kubeconfig(cut.installation.kubeconfig))
        two.start(cut)
        two.wait(cut.leads, "its leadership")
        two.start(free)
        two.wait_gone(two.orphan())
        with proxy.refused():
            left = two.orphan()
            two.wait(lambda: two.holder() == free.user, "the other's leadership")
            assert not cut.leads()
            assert families(cut) == set()
            assert probe(cut, "/healthz") == 200
            two.wait_gone(left)
        two.wait(lambda: "reached again" in str(cut.healer.lines()), "the end of its trouble")
        two.wait_gone(two.orphan())
        assert {event.user for event in two.deletes()[1:]} == {free.user}
        assert two.late() == []
        for each in (free, cut):
            assert each.healer.stop() == 0


def freeze_until_taken_over(two: Pair, old: Replica, new: Replica) -> float:
    old.healer.freeze()
    try:
        return take_over(two, old, new)
    finally:
        old.healer.thaw()


def test_a_leader_frozen_at_random_does_no_harm(two: Pair, record_property: Any) -> None:
    """KPO_HEALER_PAUSES times. When it wakes up, at most the one request that had passed its check is sent."""
    pauses, dice, longest = times("KPO_HEALER_PAUSES", 1), random.Random(1), 0.0
    two.start_both()
    for _ in range(pauses):
        old, new = two.leader()
        two.wait(old.leads, "that it knows")
        pods = [two.orphan() for _ in range(dice.randint(1, 4))]
        two.wait(lambda: dice.random() < 0.1, "a random moment, in the middle of anything")
        seconds = freeze_until_taken_over(two, old, new)
        longest = max(longest, seconds)
        assert seconds <= DURATION + RETRY + SLACK
        two.wait(lambda new=old: not new.leads(), "that it has noticed")
        two.wait_gone(*pods)
    late = two.late()
    record_property("pauses", pauses)
    record_property("late", [event.code for event in late])
    print(f"pauses {pauses}, late DELETEs {[e.code for e in late]}, longest take-over {longest:.1f} s")
    assert len(late) <= pauses
    for name in {event.name for event in two.deletes()}:
        accepted = [event for event in two.deletes(name=name) if event.code == 200]
        assert len(accepted) == 1, "no Pod was deleted twice"


def test_a_leader_frozen_between_check_and_sending_sends_one_request(two: Pair, record_property: Any) -> None:
    """KPO_HEALER_EXACT_PAUSES times; every other time the Pod changes meanwhile, and its DELETE is refused."""
    pauses = times("KPO_HEALER_EXACT_PAUSES", 2)
    codes: list[int] = []
    for replica in two.replicas:  # shorter than the patience for a DELETE's answer, which else would not be awaited
        replica.installation.config["leaderElection"] |= SHORT
    two.start_both(trapped=True)
    for number in range(pauses):
        old, new = two.leader()
        two.wait(old.leads, "that it knows")
        mark = len(two.deletes(old))
        old.trap.touch()
        pod = two.orphan()
        stopped = Path(f"{old.trap}.stopped")
        two.wait(stopped.exists, "the moment between check and sending")
        stopped.unlink()
        changes = number % 2 == 0
        if changes:
            two.cluster.patch_pod(two.namespace, pod, {"metadata": {"annotations": {"kpo-healer.io/protect": "true"}}})
        take_over(two, old, new)
        old.healer.signal(signal.SIGCONT)
        two.wait(lambda mark=mark, old=old: len(two.deletes(old)) > mark, "the request that was on its way")
        two.wait(lambda old=old: not old.leads(), "that it has noticed")
        if changes:
            assert pod in two.names(), "what changed since it was judged is not deleted"
            two.cluster.delete_pod(two.namespace, pod, grace=0)
        two.wait_gone(pod)
        (sent,) = two.deletes(old)[mark:]
        assert sent.name == pod
        assert sent.preconditions.keys() == {"uid", "resourceVersion"}
        # 504: the answer is not awaited, because the request had already taken too long.
        assert sent.code in ({409, 504} if changes else {200, 404, 409, 504})
        codes.append(sent.code)
    record_property("codes", codes)
    print(f"exact pauses {pauses}, answers to the late DELETEs {codes}")
    assert len(two.late()) == pauses


# --- rights -----------------------------------------------------------------------------------------------------------

READ_ONLY = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}, *RIGHTS[1:]]


@pytest.fixture
def powerless(two: Pair) -> Replica:
    """A replica whose Role lacks `delete`."""
    replica = two.replicas[0]
    kubeconfig = two.cluster.service_account(ACCOUNT, "powerless", READ_ONLY, namespaces=[two.namespace])
    return Replica("powerless", replace(replica.installation, kubeconfig=kubeconfig), replica.trap)


def said(replica: Replica, part: str) -> list[Any]:
    return [line for line in replica.healer.lines() if part in str(line.get("message"))]


def test_enforce_mode_without_the_right_says_so_and_goes_on_reporting(two: Pair, powerless: Replica) -> None:
    healer = two.start(powerless)
    two.wait(lambda: said(powerless, "enforce mode, but the healer may not delete Pods here"), "the warning")
    two.orphan()
    two.wait(lambda: healer.metric("deletions_total", result="denied") >= 1, "a refusal")
    seen = healer.metric("deletions_total", result="denied")
    two.orphan()
    two.wait(lambda: healer.metric("deletions_total", result="denied") > seen, "the next one's")
    assert healer.metric("pods", reason="orphaned") == 2
    powerless.installation.config["mode"] = "enforce"
    told = powerless.installation.ask("check", "-o", "json")
    assert told.code == 1
    assert [line["detail"] for line in told.data() if line["status"] == "fail"] == [
        "may not delete pods: grant it as shown below"
    ]
    assert healer.stop() == 0


def test_without_rights_on_the_lease_nothing_is_done_and_that_is_said(two: Pair) -> None:
    rules = [RIGHTS[0]]
    kubeconfig = two.cluster.service_account(ACCOUNT, "leaseless", rules, namespaces=[two.namespace])
    replica = Replica("leaseless", replace(two.replicas[0].installation, kubeconfig=kubeconfig), two.replicas[0].trap)
    healer = two.start(replica)
    pod = two.orphan()
    two.wait(lambda: said(replica, "the Lease can't be acquired or renewed"), "the reason")
    assert "kubectl create role kpo-healer-get-leases" in str(said(replica, "the Lease can't")[0])
    assert healer.metric("leader") == 0
    two.cluster.service_account(ACCOUNT, "leaseless", RIGHTS, namespaces=[two.namespace])
    two.wait_gone(pod)
    assert len(said(replica, "the Lease can't")) <= 2
    assert healer.stop() == 0


# --- commands ---------------------------------------------------------------------------------------------------------


def enforcing(replica: Replica, **limits: Any) -> Installation:
    replica.installation.config["mode"] = "enforce"
    replica.installation.config["airflows"][0]["limits"] |= limits
    return replica.installation


def test_once_takes_the_lease_or_leaves_it_to_the_leader(two: Pair) -> None:
    one, other = two.replicas
    pod = two.orphan()
    once = enforcing(other)
    assert once.ask("run", "--once", expect=(0,), timeout=PATIENCE).code == 0
    assert pod not in two.names()
    assert two.holder() is None, "it gives the Lease away"
    healer = two.start(one)
    two.wait(one.leads, "a leader")
    told = once.ask("run", "--once", expect=(3,), timeout=PATIENCE)
    assert "another replica leads" in told.err
    assert len(told.err.splitlines()) == len([x for x in told.err.splitlines() if x.startswith(("error:", "{"))])
    assert healer.stop() == 0
    assert two.late() == []


def test_release_lifts_the_breaker_of_the_leader(two: Pair) -> None:
    one = two.replicas[0]
    breaker = {"maxShare": 0.5, "minCount": 1, "coolDown": "1h"}
    installation = enforcing(one, breaker=breaker)
    healer = two.start(one)
    pods = [two.orphan() for _ in range(3)]
    two.wait(lambda: healer.metric("withheld", why="breaker") == 3, "three Pods behind the breaker")
    told = installation.ask("release", "--airflow", "demo", expect=(0,))
    assert told.out.startswith("The breaker of Airflow demo is lifted until ")
    two.wait_gone(*pods)
    two.wait(lambda: healer.metric("breaker_open") == 0, "the lifted breaker")
    assert said(one, "the breaker is lifted by hand")
    told_there = {"kpo-healer.io/airflows", "release.kpo-healer.io/demo"}
    two.wait(lambda: {*two.lease()["metadata"]["annotations"]} == told_there, "what the Lease tells")  # type: ignore[index]
    assert healer.stop() == 0
    later = [two.orphan() for _ in range(3)]
    assert installation.ask("run", "--once", expect=(0,), timeout=PATIENCE).code == 0
    assert not two.names() & set(later), "run --once honours it too"
    assert json.dumps(two.lease()).count("release.kpo-healer.io/demo") >= 1


def test_the_terms_of_these_tests_are_in_order() -> None:
    assert (TERMS["leaseDuration"], TERMS["renewDeadline"]) == (f"{DURATION:g}s", f"{DEADLINE:g}s")
