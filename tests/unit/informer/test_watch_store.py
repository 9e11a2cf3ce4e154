"""The picture of the Pods: hints and listings in any order, and never something older over something newer."""

import itertools
import random
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from healer.cluster import Listing, decode_pod
from healer.informer import PodStore
from tests.unit.cluster_server import raw_pod


def pod(name="p", version="7", namespace="a", uid=None):
    return decode_pod(raw_pod(name, resourceVersion=version, namespace=namespace, uid=uid or f"uid-{name}"))


def listing(*pods, version="100"):
    return Listing(list(pods), version)


def names(store):
    return sorted(each.name for each in store.list_pods())


def found(store, uid="uid-p"):
    return next((each for each in store.list_pods() if each.uid == uid), None)


@pytest.fixture
def store():
    return PodStore()


class TestHints:
    def test_come_change_and_go(self, store):
        store.upsert(pod(version="1"))
        store.upsert(pod(version="2"))
        assert [each.resource_version for each in store.list_pods()] == ["2"]
        assert found(store).resource_version == "2"
        store.delete("uid-p")
        assert len(store) == 0
        assert found(store) is None

    def test_an_old_one_changes_nothing(self, store):
        store.upsert(pod(version="10"))
        store.upsert(pod(version="9"))
        assert found(store).resource_version == "10"

    def test_an_old_one_brings_nothing_back(self, store):
        store.upsert(pod(version="10"))
        store.delete("uid-p", "a", "11")
        store.upsert(pod(version="10"))
        assert names(store) == []

    def test_one_that_came_back_into_the_selection(self, store):
        store.delete("uid-p", "a", "11")
        store.upsert(pod(version="12"))
        assert names(store) == ["p"]

    def test_versions_that_are_no_numbers_count_as_they_arrive(self, store):
        store.upsert(pod(version="b"))
        store.upsert(pod(version="a"))
        assert found(store).resource_version == "a"

    def test_the_same_name_is_another_pod(self, store):
        store.upsert(pod(version="1", uid="old"))
        store.upsert(pod(version="2", uid="new"))
        store.delete("old")
        assert [each.uid for each in store.list_pods()] == ["new"]


class TestListings:
    def test_what_is_missing_is_dropped(self, store):
        for name in "pq":
            store.upsert(pod(name))
        store.replace("a", listing(pod("q"), pod("r")), store.generation())
        assert names(store) == ["q", "r"]

    def test_other_namespaces_stay(self, store):
        store.upsert(pod("p", namespace="b"))
        store.replace("a", listing(pod("q")), store.generation())
        assert names(store) == ["p", "q"]

    @pytest.mark.parametrize("version", ["100", "x"])
    def test_what_came_after_it_stays(self, store, version):
        started = store.generation()
        store.upsert(pod("new", "101" if version == "100" else "y"))
        store.replace("a", listing(version=version), started)
        assert names(store) == ["new"]

    def test_a_late_hint_of_something_older_than_the_listing_does_not(self, store):
        started = store.generation()
        store.upsert(pod("vanished", "99"))
        store.replace("a", listing(), started)
        assert names(store) == []

    @pytest.mark.parametrize("version", ["101", ""])
    def test_what_went_after_it_stays_away(self, store, version):
        store.upsert(pod("p"))
        started = store.generation()
        store.delete("uid-p", "a", version)
        store.replace("a", listing(pod("p")), started)
        assert names(store) == []

    def test_what_we_took_for_gone_comes_back_with_the_next_listing(self, store):
        store.upsert(pod("p"))
        store.delete("uid-p")
        store.replace("a", listing(pod("p")), store.generation())
        assert names(store) == ["p"]

    def test_what_changed_after_it_stays_changed(self, store):
        started = store.generation()
        store.upsert(pod("p", "101"))
        store.replace("a", listing(pod("p", "7")), started)
        assert found(store).resource_version == "101"

    def test_two_at_once_in_the_wrong_order(self, store):
        first, second = store.generation(), store.generation()
        store.replace("a", listing(pod("p", "8"), version="200"), second)
        store.replace("a", listing(pod("p", "7"), version="100"), first)
        assert found(store).resource_version == "8"

    def test_dropped_pods_are_forgotten_in_the_end(self, store):
        for number in range(50):
            store.upsert(pod(f"p{number}", str(number)))
            store.delete(f"uid-p{number}", "a", str(number + 1))
        store.delete("uid-never-seen")
        store.replace("a", listing(), store.generation())
        assert (store._tombstones, store._updated_at, store._pods) == ({}, {}, {})


class TestReadability:
    def test_not_before_the_first_listing(self, store):
        store.upsert(pod())
        assert "not listed yet" in store.why_unavailable("a")

    def test_each_namespace_for_itself(self, store):
        for namespace in "ab":
            store.replace(namespace, listing(pod(namespace, namespace=namespace)), store.generation())
        store.mark_unavailable("a", "forbidden")
        assert store.why_unavailable("a") == "forbidden"
        assert store.why_unavailable("b") is None
        assert names(store) == ["a", "b"]

    def test_readable_again(self, store):
        store.mark_unavailable("a", "forbidden")
        store.replace("a", listing(), store.generation())
        assert store.why_unavailable("a") is None


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
        store.upsert(each)
    else:
        store.delete(each.uid, "a", str(version) if numbered else "")


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
            pending.append((listing(*state(history, at).values(), version=str(at)), store.generation()))
        elif what == "answer" and pending:
            store.replace("a", *pending.pop(0))
    if not numbered:  # what went while a listing was on its way only the next one tells
        store.replace("a", listing(*state(history, 99).values(), version="99"), store.generation())
    assert {each.uid: each for each in store.list_pods()} == state(history, 99)


def test_several_threads(store):
    """Whatever the threads do, each Pod ends as its last hint says."""

    def work(name):
        for version in range(1, 200):
            store.upsert(pod(name, str(version)))
            store.list_pods()
        if name == "t1":
            store.delete(f"uid-{name}", "a", "1000")

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.name: each.resource_version for each in store.list_pods()} == dict.fromkeys(["t0", "t2", "t3"], "199")


@pytest.mark.parametrize("hinted", [False, True])
def test_nothing_is_kept_of_pods_that_are_gone(store, hinted):
    for version in range(1, 40, 3):
        store.upsert(pod(f"hinted-{version}", str(version)))
        store.replace("a", listing(pod(f"listed-{version}", str(version)), version=str(version)), store.generation())
    for each in store.list_pods() if hinted else ():
        store.delete(each.uid, "a", "50")
    store.replace("a", listing(version="60"), store.generation())
    assert "uid-" not in repr(vars(store))


def test_a_pod_that_did_not_change_is_not_replaced(store):
    one = pod("p")
    store.upsert(one)
    store.replace("a", listing(msgspec.structs.replace(one)), store.generation())
    assert found(store) is one


# --- what we have deleted ourselves -----------------------------------------------------------------------------------


def deleted(store, *versions):
    store.expect_deleted("uid-p", frozenset(versions))
    return store


def test_a_deleted_pod_is_left_out_while_it_looks_as_it_did_then(store):
    store.upsert(pod(version="7"))
    store.upsert(pod("other"))
    deleted(store, "6", "7")
    assert names(store) == ["other"]
    store.replace("a", listing(pod(version="7"), pod("other")), store.generation())
    assert names(store) == ["other"], "nor does a LIST that is late bring it back"
    store.upsert(pod(version="8"))
    assert names(store) == ["other", "p"], "it terminates, or the DELETE did not reach it"


def test_a_pod_that_changed_before_its_delete_was_answered_is_shown(store):
    store.upsert(pod(version="8"))
    assert names(deleted(store, "7")) == ["p"]


@pytest.mark.parametrize("how", ["event", "list"])
def test_nothing_is_expected_of_a_pod_that_is_gone(store, how):
    store.upsert(pod(version="7"))
    deleted(store, "7")
    if how == "event":
        store.delete("uid-p", "a", "8")
    else:
        store.replace("a", listing(), store.generation())
    assert not store._deleted
    assert not deleted(store, "7")._deleted, "the watch was faster than the answer"
