"""The picture of the Pods: hints and listings in any order, and never something older over something newer."""

import itertools
import random
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from healer.cluster import Listing, decode_pod
from healer.watch import PodStore
from tests.unit.cluster_server import raw_pod


def pod(name="p", version="7", namespace="a", uid=None):
    return decode_pod(raw_pod(name, resourceVersion=version, namespace=namespace, uid=uid or f"uid-{name}"))


def listing(*pods, version="100"):
    return Listing(list(pods), version)


def names(store):
    return sorted(each.name for each in store.snapshot())


@pytest.fixture
def store():
    return PodStore()


class TestHints:
    def test_come_change_and_go(self, store):
        store.apply(pod(version="1"))
        store.apply(pod(version="2"))
        assert [each.resource_version for each in store.snapshot()] == ["2"]
        assert store.get("uid-p").resource_version == "2"
        store.drop("uid-p")
        assert len(store) == 0
        assert store.get("uid-p") is None

    def test_an_old_one_changes_nothing(self, store):
        store.apply(pod(version="10"))
        store.apply(pod(version="9"))
        assert store.get("uid-p").resource_version == "10"

    def test_an_old_one_brings_nothing_back(self, store):
        store.apply(pod(version="10"))
        store.drop("uid-p", "a", "11")
        store.apply(pod(version="10"))
        assert names(store) == []

    def test_one_that_came_back_into_the_selection(self, store):
        store.drop("uid-p", "a", "11")
        store.apply(pod(version="12"))
        assert names(store) == ["p"]

    def test_versions_that_are_no_numbers_count_as_they_arrive(self, store):
        store.apply(pod(version="b"))
        store.apply(pod(version="a"))
        assert store.get("uid-p").resource_version == "a"

    def test_the_same_name_is_another_pod(self, store):
        store.apply(pod(version="1", uid="old"))
        store.apply(pod(version="2", uid="new"))
        store.drop("old")
        assert [each.uid for each in store.snapshot()] == ["new"]


class TestListings:
    def test_what_is_missing_is_dropped(self, store):
        for name in "pq":
            store.apply(pod(name))
        store.replace("a", listing(pod("q"), pod("r")), store.begin())
        assert names(store) == ["q", "r"]

    def test_other_namespaces_stay(self, store):
        store.apply(pod("p", namespace="b"))
        store.replace("a", listing(pod("q")), store.begin())
        assert names(store) == ["p", "q"]

    @pytest.mark.parametrize("version", ["100", "x"])
    def test_what_came_after_it_stays(self, store, version):
        started = store.begin()
        store.apply(pod("new", "101" if version == "100" else "y"))
        store.replace("a", listing(version=version), started)
        assert names(store) == ["new"]

    def test_a_late_hint_of_something_older_than_the_listing_does_not(self, store):
        started = store.begin()
        store.apply(pod("vanished", "99"))
        store.replace("a", listing(), started)
        assert names(store) == []

    @pytest.mark.parametrize("version", ["101", ""])
    def test_what_went_after_it_stays_away(self, store, version):
        store.apply(pod("p"))
        started = store.begin()
        store.drop("uid-p", "a", version)
        store.replace("a", listing(pod("p")), started)
        assert names(store) == []

    def test_what_we_took_for_gone_comes_back_with_the_next_listing(self, store):
        store.apply(pod("p"))
        store.drop("uid-p")
        store.replace("a", listing(pod("p")), store.begin())
        assert names(store) == ["p"]

    def test_what_changed_after_it_stays_changed(self, store):
        started = store.begin()
        store.apply(pod("p", "101"))
        store.replace("a", listing(pod("p", "7")), started)
        assert store.get("uid-p").resource_version == "101"

    def test_two_at_once_in_the_wrong_order(self, store):
        first, second = store.begin(), store.begin()
        store.replace("a", listing(pod("p", "8"), version="200"), second)
        store.replace("a", listing(pod("p", "7"), version="100"), first)
        assert store.get("uid-p").resource_version == "8"

    def test_dropped_pods_are_forgotten_in_the_end(self, store):
        for number in range(50):
            store.apply(pod(f"p{number}", str(number)))
            store.drop(f"uid-p{number}", "a", str(number + 1))
        store.drop("uid-never-seen")
        store.replace("a", listing(), store.begin())
        assert (store._gone, store._hinted, store._pods) == ({}, {}, {})


class TestReadability:
    def test_not_before_the_first_listing(self, store):
        store.apply(pod())
        assert "not listed yet" in store.why_unreadable("a")

    def test_each_namespace_for_itself(self, store):
        for namespace in "ab":
            store.replace(namespace, listing(pod(namespace, namespace=namespace)), store.begin())
        store.unreadable("a", "forbidden")
        assert store.why_unreadable("a") == "forbidden"
        assert store.why_unreadable("b") is None
        assert names(store) == ["a", "b"]

    def test_readable_again(self, store):
        store.unreadable("a", "forbidden")
        store.replace("a", listing(), store.begin())
        assert store.why_unreadable("a") is None


class TestChanges:
    def test_waking(self):
        woken = []
        store = PodStore(wake=lambda: woken.append(len(store)))
        store.apply(pod("p"))
        store.replace("a", listing(pod("p"), pod("q")), store.begin())
        store.drop("uid-p")
        assert woken == [1, 2, 1]


def invented_history(chance):
    """Forty changes to the Pods of a namespace: (version, whether it is there, how it looks)."""
    alive, history, count = {}, [], itertools.count()
    for version in range(1, 40):
        if alive and chance.random() < 0.4:
            history.append((version, False, alive.pop(chance.choice(list(alive)))))
        else:
            fresh = not alive or chance.random() < 0.5
            name = f"p{next(count)}" if fresh else chance.choice(list(alive))
            alive[name] = pod(name, str(version))
            history.append((version, True, alive[name]))
    return history


def state(history, at):
    """The Pods, by uid, after so many changes."""
    last = {each.uid: (there, each) for version, there, each in history if version <= at}
    return {uid: each for uid, (there, each) in last.items() if there}


def tell(store, change, *, numbered):
    version, there, each = change
    if there:
        store.apply(each)
    else:
        store.drop(each.uid, "a", str(version) if numbered else "")


@given(st.integers(0, 2**32), st.booleans())
def test_in_whatever_order_it_arrives_the_truth_wins(seed, numbered):
    """Hints that lag behind and listings that are served in between and arrive late end in the last state."""
    chance = random.Random(seed)
    history = invented_history(chance)
    store, hints, pending = PodStore(), list(history), []
    while hints or pending:
        what = chance.choice(["hint", "hint", "list", "answer"])
        if what == "hint" and hints:
            tell(store, hints.pop(0), numbered=numbered)
        elif what == "list" and hints:
            at = chance.randint(len(history) - len(hints), len(history))
            pending.append((listing(*state(history, at).values(), version=str(at)), store.begin()))
        elif what == "answer" and pending:
            store.replace("a", *pending.pop(0))
    if not numbered:  # what went while a listing was on its way only the next one tells
        store.replace("a", listing(*state(history, 99).values(), version="99"), store.begin())
    assert {each.uid: each for each in store.snapshot()} == state(history, 99)


def test_several_threads(store):
    """Whatever the threads do, each Pod ends as its last hint says."""

    def work(name):
        for version in range(1, 200):
            store.apply(pod(name, str(version)))
            store.snapshot()
        if name == "t1":
            store.drop(f"uid-{name}", "a", "1000")

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.name: each.resource_version for each in store.snapshot()} == dict.fromkeys(["t0", "t2", "t3"], "199")


@pytest.mark.parametrize("hinted", [False, True])
def test_nothing_is_kept_of_pods_that_are_gone(store, hinted):
    for version in range(1, 40, 3):
        store.apply(pod(f"hinted-{version}", str(version)))
        store.replace("a", listing(pod(f"listed-{version}", str(version)), version=str(version)), store.begin())
    for each in store.snapshot() if hinted else ():
        store.drop(each.uid, "a", "50")
    store.replace("a", listing(version="60"), store.begin())
    assert "uid-" not in repr(vars(store))


def test_a_pod_that_did_not_change_is_not_replaced(store):
    one = pod("p")
    store.apply(one)
    store.replace("a", listing(msgspec.structs.replace(one)), store.begin())
    assert store.get("uid-p") is one
