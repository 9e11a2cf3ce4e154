"""What of kopf can be shown without a cluster: its handler, its settings, our patience with it."""

import asyncio
import contextlib
import itertools
import logging
import threading

import kopf
import pytest

from healer.cluster import Connection
from healer.informer import Informer, PodStore
from healer.informer.backoff import ApiBackoff, Backoff
from healer.informer.kopf_watcher import KopfWatcher, connection_info
from healer.informer.settings import quiet_settings
from healer.informer.status import WatchStatus
from healer.model import POD_SELECTOR
from tests.lab.processes import wait_for
from tests.unit.cluster_server import Answer, page, raw_pod, serving, write_kubeconfig

pytestmark = pytest.mark.slow


@pytest.fixture
def store():
    return PodStore()


@pytest.fixture
def watch(tmp_path, store):
    return Informer(Connection(write_kubeconfig(tmp_path / "k", "http://127.0.0.1:1")), ["a"], store)


@pytest.fixture
def operator(store):
    return KopfWatcher(Connection(), ["a"], store, WatchStatus(), on_list=lambda _: None, observe=lambda *_: None)


def hint(operator, kind, pod):
    return asyncio.run(operator._on_event(event={"type": kind, "object": pod}, patch=object(), body=pod))


class TestTheHandler:
    def test_into_the_store_and_out_of_it(self, operator, store):
        for kind in (None, "ADDED", "MODIFIED"):
            assert hint(operator, kind, raw_pod()) is None
            assert len(store) == 1
        assert hint(operator, "DELETED", raw_pod(resourceVersion="8")) is None
        assert len(store) == 0

    @pytest.mark.parametrize("odd", [{}, {"metadata": 1}, {"metadata": {"name": "p"}}, None, 5])
    def test_odd_objects(self, operator, store, odd):
        assert hint(operator, "ADDED", odd) is None
        assert len(store) == 0

    def test_a_store_that_fails_costs_one_hint(self, operator, store, monkeypatch, caplog):
        monkeypatch.setattr(store, "upsert", lambda _pod: 1 / 0)
        assert hint(operator, "ADDED", raw_pod()) is None
        assert "A hint was lost" in caplog.text

    def test_kopf_knows_this_handler_and_the_login_only(self, operator):
        registry = operator._registry()
        assert len(registry._watching.get_all_handlers()) == 1
        assert len(registry._activities.get_all_handlers()) == 1
        for others in (registry._changing, registry._spawning, registry._indexing, registry._webhooks):
            assert others.get_all_handlers() == []


class TestSettings:
    def test_nothing_is_written(self):
        settings = quiet_settings()
        assert settings.posting.enabled is False
        assert settings.persistence.finalizer != kopf.OperatorSettings().persistence.finalizer
        assert settings.scanning.disabled
        assert settings.process.ultimate_exiting_timeout is None

    def test_the_selector_is_the_servers(self):
        pods = kopf.Resource("", "v1", "pods", namespaced=True) if hasattr(kopf, "Resource") else None
        selectors = quiet_settings().watching.label_selectors
        assert POD_SELECTOR in (selectors.collect(pods) if pods else list(selectors.values()))

    def test_the_server_wants_whole_seconds(self):
        assert isinstance(quiet_settings().watching.server_timeout, int)

    def test_retries_have_no_end_and_a_limit(self):
        retries = ApiBackoff()
        assert not hasattr(retries, "__len__")
        for _ in range(2):
            delays = list(itertools.islice(retries, 50))
            assert len(delays) == 50
            assert all(0 < delay <= 36 for delay in delays)

    def test_no_namespace_is_not_all_of_them(self, store):
        with pytest.raises(ValueError, match="no namespaces"):
            Informer(Connection(), [], store)


class TestBackoff:
    def delays(self, first, *steps):
        now = [0.0]
        backoff = Backoff(first, lambda: now[0])
        for step in steps:
            now[0] += step
            yield backoff.next()

    def test_doubles_up_to_a_limit(self):
        assert list(self.delays(1.0, *[0] * 7)) == [1, 2, 4, 8, 16, 30, 30]

    def test_begins_with_no_delay_where_wanted(self):
        assert list(self.delays(0.0, *[0] * 4)) == [0, 1, 2, 4]

    def test_a_steady_time_forgives(self):
        assert list(self.delays(1.0, 0, 0, 0, 65, 0)) == [1, 2, 4, 1, 2]


class TestCredentials:
    def info(self, tmp_path, server="https://127.0.0.1:6443", **user):
        return connection_info(Connection(write_kubeconfig(tmp_path / "k", server, **user)))[0]

    def test_a_token(self, tmp_path):
        assert self.info(tmp_path, token="abc").as_http_headers() == {"Authorization": "Bearer abc"}

    def test_none(self, tmp_path):
        info = self.info(tmp_path, **{"as-user": "x"})
        assert info.as_http_headers() == {}

    def test_basic(self, tmp_path):
        headers = self.info(tmp_path, username="u", password="p").as_http_headers()
        assert headers["Authorization"].lower().startswith("basic ")

    def test_a_proxy_but_not_for_those_it_is_not_for(self, tmp_path, monkeypatch):
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, "http://proxy.invalid:3128")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        assert self.info(tmp_path).proxy_url is None
        assert self.info(tmp_path, "https://10.0.0.1:6443").proxy_url == "http://proxy.invalid:3128"


def resource(name, kind):
    verbs = ["get", "list", "watch", "patch"]
    return {"name": name, "singularName": kind.lower(), "kind": kind, "namespaced": name == "pods", "verbs": verbs}


class TestSupervision:
    def script(self, kind="ADDED"):
        """An API server with one Pod, whose watch ends in an error that kopf does not survive."""

        def answer(seen):
            if seen.path.startswith("/api/v1/namespaces"):
                if "watch=true" in seen.path:
                    return Answer(200, {"type": "ERROR", "object": {"code": 500, "message": "etcdserver: no leader"}})
                return Answer(200, page(raw_pod()))
            if seen.path == "/api/v1":
                return Answer(200, {"resources": [resource("pods", "Pod"), resource("namespaces", "Namespace")]})
            return Answer(200, {"versions": ["v1"], "groups": [], "resources": []})

        return answer

    def test_a_kopf_that_died_is_started_again(self, tmp_path, store, caplog, monkeypatch):
        monkeypatch.setattr("healer.informer.informer.FIRST_BACKOFF", 0.01)
        lists = []
        with serving(self.script()) as server:
            connection = Connection(write_kubeconfig(tmp_path / "k", f"http://127.0.0.1:{server.port}"))
            watch = Informer(connection, ["a"], store, on_list=lists.append)
            with caplog.at_level(logging.WARNING, "healer.informer.informer"):
                watch.start()
                try:
                    wait_for(lambda: watch.restarts and len(lists) >= 2, what="a second list", timeout=30)
                finally:
                    watch.stop()
        assert len(store) == 1
        assert set(lists) == {"a"}
        assert "The watch ended" in caplog.text
        assert not watch.alive()

    def test_a_kopf_that_can_not_die_is_started_again(self, watch, monkeypatch):
        """As kopf itself does when another namespace waits for a login: it ends, and then waits for ever."""
        for name in ("informer.FIRST_BACKOFF", "kopf_watcher.CLEANUP_TIMEOUT", "kopf_watcher.CANCEL_INTERVAL"):
            monkeypatch.setattr(f"healer.informer.{name}", 0.01)

        async def undead(registry, **_):
            cleanup = next(each for each in registry._activities.get_all_handlers() if each.activity.value == "cleanup")
            await cleanup.fn()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()

        monkeypatch.setattr("kopf.operator", undead)
        watch.start()
        try:
            wait_for(lambda: watch.restarts >= 2, what="another kopf, twice", timeout=90)
        finally:
            watch.stop()
        assert not watch.alive()

    def test_a_namespace_is_watched_while_its_requests_are_answered(self, tmp_path, store, monkeypatch):
        monkeypatch.setattr("healer.informer.informer.FIRST_BACKOFF", 0.01)
        forbidden, over, plain = threading.Event(), threading.Event(), self.script()

        def answer(seen):
            if "/namespaces/b/" in seen.path and forbidden.is_set():
                return Answer(403, {"message": "no"})
            if "watch=true" in seen.path:
                if "/namespaces/b/" in seen.path:  # a watch that the server ends, so that it is asked for again
                    forbidden.wait(0.2)
                    return Answer(200, b"")
                return Answer(200, b"\n" if over.wait(60) else b"")
            return plain(seen)

        # The status line of a watch comes at once from a real server; this one holds it back, so "a" is not watched.
        with serving(answer) as server:
            connection = Connection(write_kubeconfig(tmp_path / "k", f"http://127.0.0.1:{server.port}"))
            watch = Informer(connection, ["a", "b"], store)
            assert not watch.watches("b")
            watch.start()
            try:
                wait_for(lambda: watch.watches("b"), what="a watch of b", timeout=90)
                assert not watch.watches("a")
                assert watch.supervised()
                forbidden.set()
                wait_for(lambda: not watch.watches("b"), what="its end", timeout=90)
                forbidden.clear()
                wait_for(lambda: watch.watches("b"), what="its return", timeout=90)
            finally:
                over.set()
                watch.stop()
        assert not watch.watches("b")
        assert not watch.supervised()

    def test_stopping_while_nobody_answers(self, watch):
        watch.start()
        watch.stop()
        watch.stop()
        assert not watch.alive()
        assert [thread for thread in threading.enumerate() if thread.name == "watch"] == []

    def test_stopping_before_the_start(self, watch):
        watch.stop()
        assert not watch.alive()

    def test_credentials_that_come_late(self, tmp_path, store, caplog):
        path = tmp_path / "late"
        with serving(self.script()) as server:
            watch = Informer(Connection(path), ["a"], store)
            watch.start()
            try:
                wait_for(lambda: "no credentials" in caplog.text, what="a complaint", timeout=30)
                write_kubeconfig(path, f"http://127.0.0.1:{server.port}")
                wait_for(lambda: len(store), what="a hint", timeout=30)
            finally:
                watch.stop()
