"""Reading and telling: listings are whole or an error, and every error is a sentence that says what to do."""

import contextlib
import logging
import os
import socket
import threading

import pytest

from healer.cluster import Cluster, Connection, EventResult, decode_pod
from healer.cluster.events import event_name
from healer.deletion.pod_deleter import PodDeleter
from healer.errors import (
    AccessDeniedError,
    ClusterError,
    ConnectError,
    InvalidResponseError,
    ResourceExpiredError,
    ServerBusyError,
    UnreachableError,
)
from healer.model import POD_SELECTOR
from tests.unit.cluster_server import Answer, page, raw_pod, serving, write_kubeconfig
from tests.unit.deletion.test_cluster_deletes import Clock, against, answers

POD = decode_pod(raw_pod())


def refusal(code, message="because"):
    return Answer(code, {"kind": "Status", "message": message})


class TestListing:
    def test_pages(self, tmp_path):
        script = answers(
            Answer(200, page(raw_pod("p"), token="two")), Answer(200, page(raw_pod("q"), {}, version="100"))
        )
        with against(script, tmp_path) as (server, cluster):
            listing = cluster.list_pods("a")
        assert [pod.name for pod in listing.pods] == ["p", "q"]
        assert (listing.resource_version, len(listing.skipped)) == ("100", 1)
        first, second = (seen.path for seen in server.seen)
        assert first.startswith("/api/v1/namespaces/a/pods?")
        assert "limit=500" in first
        assert "continue" not in first
        assert "continue=two" in second
        assert "limit=500" in second
        assert server.observed == [("list", "200")] * 2

    def test_the_selector(self, tmp_path):
        with against(answers(Answer(200, page())), tmp_path) as (server, cluster):
            cluster.list_pods("a")
        from urllib.parse import parse_qs, urlsplit

        assert parse_qs(urlsplit(server.seen[0].path).query)["labelSelector"] == [POD_SELECTOR]

    def test_begins_anew_when_its_version_is_forgotten(self, tmp_path):
        script = answers(
            Answer(200, page(raw_pod("old"), token="two", version="1")),
            refusal(410, "The provided continue parameter is too old"),
            Answer(200, page(raw_pod("p"), token="two", version="2")),
            Answer(200, page(raw_pod("q"), version="2")),
        )
        with against(script, tmp_path) as (_, cluster):
            listing = cluster.list_pods("a")
        assert [pod.name for pod in listing.pods] == ["p", "q"]
        assert listing.resource_version == "2"

    def test_gives_up_when_it_is_always_forgotten(self, tmp_path):
        with against(answers(refusal(410)), tmp_path) as (server, cluster), pytest.raises(ResourceExpiredError):
            cluster.list_pods("a")
        assert 1 < len(server.seen) < 10

    @pytest.mark.parametrize(
        ("second", "error"),
        [
            (refusal(403), AccessDeniedError),
            (refusal(429), ServerBusyError),
            (refusal(500), ServerBusyError),
            (Answer(reset=True), UnreachableError),
            (Answer(200, page(), cut=True), UnreachableError),
            (Answer(200, b"<html>"), InvalidResponseError),
            (Answer(200, {"kind": "PodList", "metadata": {}}), InvalidResponseError),
            (Answer(302, b"", {"Location": "/login"}), InvalidResponseError),
        ],
    )
    def test_never_half(self, tmp_path, second, error):
        script = answers(Answer(200, page(raw_pod("p"), token="two")), second)
        with against(script, tmp_path) as (_, cluster), pytest.raises(error):
            cluster.list_pods("a")

    def test_a_broken_connection_is_tried_once_more(self, tmp_path):
        script = answers(Answer(reset=True), Answer(200, page(raw_pod("p"))))
        with against(script, tmp_path) as (server, cluster):
            assert len(cluster.list_pods("a").pods) == 1
        assert server.methods() == ["GET", "GET"]

    def test_retry_after_is_told(self, tmp_path):
        busy = Answer(503, {"message": "starting"}, {"Retry-After": "7"})
        with against(answers(busy), tmp_path) as (server, cluster), pytest.raises(ServerBusyError) as caught:
            cluster.list_pods("a")
        assert caught.value.retry_after == 7.0
        assert server.methods() == ["GET"]


class TestGetting:
    def test_a_pod(self, tmp_path):
        with against(answers(Answer(200, raw_pod())), tmp_path) as (_, cluster):
            assert cluster.get_pod("a", "p") == POD

    def test_none(self, tmp_path):
        with against(answers(refusal(404)), tmp_path) as (_, cluster):
            assert cluster.get_pod("a", "p") is None

    @pytest.mark.parametrize("body", [b"", b"[]", {"kind": "Pod"}, {"kind": "Status", "status": "Success"}])
    def test_no_pod_is_not_gone(self, tmp_path, body):
        with against(answers(Answer(200, body)), tmp_path) as (_, cluster), pytest.raises(InvalidResponseError):
            cluster.get_pod("a", "p")


class TestSentences:
    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (refusal(401, "Unauthorized"), ["credentials", "401", "renew"]),
            (refusal(403, "pods is forbidden: User x cannot list"), ["namespace a", "User x", "--verb=list", "-n a"]),
            (refusal(503, "no healthy upstream"), ["503", "no healthy upstream"]),
            (refusal(404, "page not found"), ["404", "page not found"]),
        ],
    )
    def test_a_refused_listing(self, tmp_path, answer, words):
        with against(answers(answer), tmp_path) as (_, cluster), pytest.raises(ClusterError) as caught:
            cluster.list_pods("a")
        sentence = str(caught.value)
        assert [word for word in words if word not in sentence] == []
        assert "\n" not in sentence

    def test_nobody_listens(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        path = write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}")
        with Cluster(Connection(path)) as cluster, pytest.raises(UnreachableError) as caught:
            cluster.version()
        assert str(caught.value).endswith("can't be reached: Connection refused.")

    def test_no_such_host(self, tmp_path):
        path = write_kubeconfig(tmp_path / "kubeconfig", "https://nowhere.invalid:6443")
        with Cluster(Connection(path)) as cluster, pytest.raises(UnreachableError, match=r"nowhere\.invalid"):
            cluster.version()

    def test_tls_to_a_plain_port(self, tmp_path):
        with serving(answers(Answer(200, {}))) as server:
            path = write_kubeconfig(tmp_path / "kubeconfig", f"https://127.0.0.1:{server.port}")
            with Cluster(Connection(path)) as cluster, pytest.raises(UnreachableError, match="SSL"):
                cluster.version()


class TestTheServersClock:
    def test_none_at_first(self, tmp_path):
        with against(answers(Answer(200, {})), tmp_path) as (_, cluster):
            assert cluster.now() is None

    def test_goes_on_by_our_monotonic_clock(self, tmp_path):
        clock = Clock()
        script = answers(Answer(200, {}, date=1_767_225_600.9), Answer(500, {}, date=1_767_225_000.0))
        with against(script, tmp_path, clock=clock) as (_, cluster):
            cluster.version()
            assert cluster.now() == 1_767_225_600.0
            clock.now += 2.5
            assert cluster.now() == 1_767_225_602.5
            with pytest.raises(ServerBusyError):
                cluster.version()
            assert cluster.now() == 1_767_225_000.0

    @pytest.mark.parametrize("date", ["", "yesterday", "1767225600"])
    def test_a_date_that_is_none(self, tmp_path, date):
        with against(answers(Answer(200, {})), tmp_path) as (_, cluster):
            cluster.version()
            before = cluster.now()
            cluster._transport._read_clock(date)
            assert cluster.now() == before


class TestRights:
    @pytest.mark.parametrize(
        ("status", "allowed"), [({"allowed": True}, True), ({"allowed": False}, False), ({}, False), (None, False)]
    )
    def test_can_i(self, tmp_path, status, allowed):
        with against(answers(Answer(201, {"status": status})), tmp_path) as (server, cluster):
            assert cluster.can_i("delete", "pods", "a") is allowed
        attributes = server.seen[0].body["spec"]["resourceAttributes"]
        assert attributes == {"verb": "delete", "resource": "pods", "namespace": "a", "group": "", "name": ""}

    def test_whoami(self, tmp_path):
        answer = Answer(201, {"status": {"userInfo": {"username": "system:serviceaccount:a:healer"}}})
        with against(answers(answer), tmp_path) as (_, cluster):
            assert cluster.whoami() == "system:serviceaccount:a:healer"

    def test_whoami_of_an_old_server(self, tmp_path):
        with against(answers(refusal(404)), tmp_path) as (_, cluster):
            assert cluster.whoami() is None


class TestEvents:
    def test_a_new_one(self, tmp_path):
        script = answers(Answer(200, {}, date=1_767_225_600), Answer(201, {}))
        with against(script, tmp_path) as (server, cluster):
            assert cluster.post_event(POD, "OrphanDetected", "x" * 2000, warning=True) is EventResult.NEW
        body = server.seen[-1].body
        assert body["involvedObject"]["uid"] == POD.uid
        assert body["firstTimestamp"] == body["lastTimestamp"] == "2026-01-01T00:00:00Z"
        assert (body["type"], len(body["message"]), body["count"]) == ("Warning", 1024, 1)
        assert body["metadata"] == {"name": event_name(POD, "OrphanDetected"), "namespace": "a"}

    def test_renewed(self, tmp_path):
        script = answers(Answer(200, {}), refusal(409), Answer(200, {"count": 4}), Answer(200, {}))
        with against(script, tmp_path) as (server, cluster):
            assert cluster.post_event(POD, "OrphanDetected", "again") is EventResult.RENEWED
        assert server.methods() == ["GET", "POST", "PATCH", "PATCH"]
        assert server.seen[2].headers["Content-Type"] == "application/merge-patch+json"
        assert server.seen[2].body["message"] == "again"
        assert server.seen[3].body == {"count": 5}

    def test_without_the_right_it_is_told_once(self, tmp_path, caplog):
        with against(answers(refusal(403, "no")), tmp_path) as (_, cluster), caplog.at_level(logging.WARNING):
            assert [cluster.post_event(POD, "OrphanDetected", "x") for _ in range(3)] == [EventResult.DENIED] * 3
        assert len(caplog.records) == 1
        assert "Events are not written in namespace a" in caplog.text

    @pytest.mark.parametrize("answer", [refusal(500), Answer(reset=True), refusal(429)])
    def test_never_raises(self, tmp_path, answer):
        with against(answers(answer), tmp_path) as (_, cluster):
            assert cluster.post_event(POD, "OrphanDetected", "x") is EventResult.FAILED

    def test_names_fit(self):
        longest = decode_pod(raw_pod("p" * 252 + "."))
        assert len(event_name(longest, "OrphanDetected")) <= 253
        assert ".." not in event_name(longest, "OrphanDetected")

    def test_names_tell_pods_reasons_and_suffixes_apart(self):
        other = decode_pod(raw_pod("p", uid="another"))
        names = {event_name(pod, reason, suffix) for pod in (POD, other) for reason in "xy" for suffix in ("", "1")}
        assert len(names) == 8


class TestCredentials:
    def test_a_token_file_is_read_again_after_a_401(self, tmp_path):
        token = tmp_path / "token"
        token.write_text("old")

        def script(seen):
            return Answer(200, {}) if seen.headers["authorization"] == "Bearer new" else refusal(401)

        with serving(script) as server:
            path = write_kubeconfig(tmp_path / "k", f"http://127.0.0.1:{server.port}", tokenFile=str(token))
            with Cluster(Connection(path)) as cluster:
                with pytest.raises(AccessDeniedError):
                    cluster.version()
                token.write_text("new")
                with pytest.raises(AccessDeniedError):
                    cluster.version()
                cluster.version()

    def test_a_kubeconfig_that_vanished_meanwhile(self, tmp_path):
        with serving(answers(refusal(401))) as server:
            path = write_kubeconfig(tmp_path / "k", f"http://127.0.0.1:{server.port}")
            with Cluster(Connection(path)) as cluster:
                path.unlink()
                for _ in range(2):
                    with pytest.raises(AccessDeniedError):
                        cluster.version()

    def test_the_service_account(self, tmp_path, monkeypatch):
        monkeypatch.setattr("healer.cluster.connection.ACCOUNT", tmp_path)
        monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
        monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
        monkeypatch.delenv("KUBECONFIG", raising=False)
        for name, text in {"token": "abc", "ca.crt": "pem", "namespace": "healer\n"}.items():
            (tmp_path / name).write_text(text)
        configuration = Connection().configuration()
        assert configuration.host == "https://10.0.0.1:443"
        assert configuration.retries is False
        assert Connection().home_namespace() == "healer"


class TestConnecting:
    @pytest.fixture(autouse=True)
    def nowhere(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
            monkeypatch.delenv(name, raising=False)

    def sentence(self, *choice):
        with pytest.raises(ConnectError) as caught:
            Cluster(Connection(*choice))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_nothing_at_all(self):
        assert "--kubeconfig" in self.sentence()

    def test_no_such_file(self, tmp_path):
        assert "no kubeconfig at" in self.sentence(tmp_path / "nope")

    def test_an_unknown_context(self, tmp_path):
        path = write_kubeconfig(tmp_path / "k", "http://127.0.0.1:1")
        assert self.sentence(path, "prod").endswith("has no context of the name given; it has: fake.")

    @pytest.mark.parametrize("text", ["", "a: [", "[]", "5", "contexts: 3", "kind: Config", "\0", "a: b"])
    def test_a_file_that_is_no_kubeconfig(self, tmp_path, text):
        path = tmp_path / "k"
        path.write_text(text)
        assert str(path) in self.sentence(path)

    def test_a_certificate_that_is_not_there(self, tmp_path):
        path = write_kubeconfig(tmp_path / "k", "https://127.0.0.1:1", ca=tmp_path / "nope.pem")
        assert "a file that it names does not exist" in self.sentence(path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_a_file_that_may_not_be_read(self, tmp_path):
        path = write_kubeconfig(tmp_path / "k", "http://127.0.0.1:1")
        path.chmod(0)
        assert str(path) in self.sentence(path)

    def test_kubeconfig_of_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "k", "http://127.0.0.1:1")))
        with Cluster(Connection()) as cluster:
            assert cluster.server == "http://127.0.0.1:1"
        assert Connection().home_namespace() == "home"

    def test_a_context_without_a_namespace_is_at_home_in_default(self, tmp_path):
        assert Connection(tmp_path / "nope").home_namespace() == "default"


def test_several_threads_at_once(tmp_path):
    """The clock, the check and the connections of one thread are none of the others' business."""

    def script(seen):
        return Answer(200, {}) if seen.method == "DELETE" else Answer(200, page(raw_pod("p")))

    from healer.model import DeleteStatus
    from tests.unit.deletion.test_cluster_deletes import proof
    from tests.unit.fakes import always_leader

    results = []

    def work(cluster, right):
        for _ in range(20):
            results.append(PodDeleter.of(cluster).delete_pod(POD, proof(), right).status)
            results.append(len(cluster.list_pods("a").pods))

    with against(script, tmp_path) as (server, cluster), contextlib.ExitStack() as stack:
        rights = [always_leader, lambda: False] * 2
        threads = [threading.Thread(target=work, args=(cluster, right)) for right in rights]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
    assert results.count(DeleteStatus.DELETED) == results.count(DeleteStatus.STALE) == 40
    assert results.count(1) == 80
    assert server.methods().count("DELETE") == 40
