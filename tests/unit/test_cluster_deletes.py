"""The DELETE: sent once, for the right Pod, while its proof is fresh and the right to act holds; else not at all."""

import contextlib
import socket
import ssl
import threading

import msgspec
import pytest
import trustme

from healer.cluster import Cluster, Connection, Proof, Result, decode_pod, sole_replica
from healer.model import ACTING, Finding, Reason
from tests.unit.cluster_server import Answer, raw_pod, serving, write_kubeconfig

POD = decode_pod(raw_pod())
FINDING = Finding(Reason.ORPHANED, "ended")


class Clock:
    """A monotonic clock that only moves when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@contextlib.contextmanager
def against(script, tmp_path, *, tls=None, ca=None, clock=None, freshness=15.0):
    """The server, and a cluster that talks to it."""
    with serving(script, tls=tls) as server:
        scheme = "https" if tls else "http"
        path = write_kubeconfig(tmp_path / "kubeconfig", f"{scheme}://127.0.0.1:{server.port}", ca=ca)
        seen = []
        clock = clock or Clock()
        with Cluster(
            Connection(path), freshness=freshness, observe=lambda *call: seen.append(call), clock=clock
        ) as cluster:
            server.observed = seen
            yield server, cluster


def answers(*scripted):
    """Each answer in turn, the last one again and again."""
    left = list(scripted)
    return lambda _seen: left.pop(0) if len(left) > 1 else left[0]


def proof(age=0.0, reason=Reason.ORPHANED):
    return Proof(Finding(reason, "because"), 1000.0 - age)


def status(code, message, **headers):
    return Answer(code, {"kind": "Status", "message": message, "code": code}, headers)


class TestWhatIsSent:
    def test_body_and_path(self, tmp_path):
        with against(answers(Answer(200, {})), tmp_path) as (server, cluster):
            assert cluster.delete_pod(POD, proof(), sole_replica).result is Result.DELETED
        (seen,) = server.seen
        assert (seen.method, seen.path) == ("DELETE", "/api/v1/namespaces/a/pods/p")
        assert seen.body["preconditions"] == {"uid": "uid-p", "resourceVersion": "7"}
        assert seen.body["propagationPolicy"] == "Background"
        assert "gracePeriodSeconds" not in seen.body
        assert "gracePeriodSeconds" not in seen.path
        assert seen.headers["authorization"] == "Bearer secret"

    def test_names_are_quoted(self, tmp_path):
        odd = msgspec.structs.replace(POD, name="../../x?y")
        with against(answers(Answer(404, {})), tmp_path) as (server, cluster):
            cluster.delete_pod(odd, proof(), sole_replica)
        assert server.seen[0].path == "/api/v1/namespaces/a/pods/..%2F..%2Fx%3Fy"


class TestResults:
    @pytest.mark.parametrize(
        ("code", "result"),
        [
            (200, Result.DELETED),
            (202, Result.DELETED),
            (404, Result.GONE),
            (409, Result.CONFLICT),
            (403, Result.DENIED),
            (422, Result.DENIED),
            (301, Result.ERROR),
            (307, Result.ERROR),
            (400, Result.ERROR),
            (401, Result.ERROR),
            (429, Result.ERROR),
            (500, Result.ERROR),
            (503, Result.ERROR),
            (504, Result.ERROR),
        ],
    )
    def test_one_request_for_each_status(self, tmp_path, code, result):
        headers = {"Retry-After": "0", "Location": "/api/v1/namespaces/a/pods/q"}
        with against(answers(Answer(code, {"message": "so it is"}, headers)), tmp_path) as (server, cluster):
            outcome = cluster.delete_pod(POD, proof(), sole_replica)
        assert outcome.result is result
        assert server.methods() == ["DELETE"]
        assert server.observed == [("delete", str(code))]
        assert "a/p" in outcome.message
        if code >= 400 and code != 404:
            assert "so it is" in outcome.message

    @pytest.mark.parametrize("code", [429, 503])
    def test_retry_after_is_told_and_not_followed(self, tmp_path, code):
        with against(answers(status(code, "later", **{"Retry-After": "4"})), tmp_path) as (server, cluster):
            outcome = cluster.delete_pod(POD, proof(), sole_replica)
        assert (outcome.result, outcome.retry_after) == (Result.ERROR, 4.0)
        assert server.methods() == ["DELETE"]

    def test_a_status_in_place_of_the_pod_is_a_success(self, tmp_path):
        answer = Answer(200, {"kind": "Status", "status": "Success"})
        with against(answers(answer), tmp_path) as (_, cluster):
            assert cluster.delete_pod(POD, proof(), sole_replica).result is Result.DELETED

    def test_a_success_whose_body_never_ends_is_a_success(self, tmp_path):
        with against(answers(Answer(200, {}, cut=True)), tmp_path) as (server, cluster):
            assert cluster.delete_pod(POD, proof(), sole_replica).result is Result.DELETED
        assert server.methods() == ["DELETE"]

    def test_html_of_a_proxy(self, tmp_path):
        with against(answers(Answer(502, b"<html>Bad Gateway")), tmp_path) as (_, cluster):
            outcome = cluster.delete_pod(POD, proof(), sole_replica)
        assert outcome.result is Result.ERROR
        assert "Bad Gateway" in outcome.message


class TestBrokenConnections:
    def test_reset_before_the_answer(self, tmp_path):
        with against(answers(Answer(reset=True)), tmp_path) as (server, cluster):
            outcome = cluster.delete_pod(POD, proof(), sole_replica)
        assert outcome.result is Result.ERROR
        assert "not known" in outcome.message
        assert server.methods() == ["DELETE"]
        assert server.observed == [("delete", "unreachable")]

    def test_reset_of_a_pooled_connection(self, tmp_path):
        script = answers(Answer(200, {"gitVersion": "v1"}), Answer(reset=True))
        with against(script, tmp_path) as (server, cluster):
            cluster.version()
            assert cluster.delete_pod(POD, proof(), sole_replica).result is Result.ERROR
        assert server.methods() == ["GET", "DELETE"]

    def test_silence(self, tmp_path, monkeypatch):
        monkeypatch.setattr("healer.cluster.deletes.TIMEOUT", 0.2)
        go_on = threading.Event()
        try:
            with against(answers(Answer(200, {}, wait=go_on)), tmp_path) as (server, cluster):
                outcome = cluster.delete_pod(POD, proof(), sole_replica)
                go_on.set()
        finally:
            go_on.set()
        assert outcome.result is Result.ERROR
        assert "did not answer" in outcome.message
        assert server.methods() == ["DELETE"]
        assert server.observed == [("delete", "timeout")]

    def test_nobody_listens(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        path = write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}")
        with Cluster(Connection(path), clock=Clock()) as cluster:
            outcome = cluster.delete_pod(POD, proof(), sole_replica)
        assert outcome.result is Result.ERROR
        assert "can't be reached" in outcome.message


class TestRefusals:
    """Nothing leaves this process."""

    def refused(self, tmp_path, pod, evidence, right=sole_replica):
        with against(answers(Answer(200, {})), tmp_path) as (server, cluster):
            outcome = cluster.delete_pod(pod, evidence, right)
        assert outcome.result is Result.STALE
        assert server.seen == []
        assert server.observed == []
        return outcome.message

    def test_age(self, tmp_path):
        assert "15.1 s old" in self.refused(tmp_path, POD, proof(age=15.1))

    @pytest.mark.parametrize("age", [-0.1, float("nan"), float("inf"), float("-inf")])
    def test_an_age_that_can_not_be(self, tmp_path, age):
        self.refused(tmp_path, POD, proof(age=age))

    def test_exactly_fresh_enough(self, tmp_path):
        with against(answers(Answer(200, {})), tmp_path) as (_, cluster):
            assert cluster.delete_pod(POD, proof(age=15.0), sole_replica).result is Result.DELETED

    def test_no_leader(self, tmp_path):
        assert "not the leader" in self.refused(tmp_path, POD, proof(), lambda: False)

    @pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in ACTING])
    def test_a_reason_that_keeps(self, tmp_path, reason):
        self.refused(tmp_path, POD, proof(reason=reason))

    @pytest.mark.parametrize("reason", ACTING)
    def test_a_reason_that_may_act(self, tmp_path, reason):
        with against(answers(Answer(200, {})), tmp_path) as (_, cluster):
            assert cluster.delete_pod(POD, proof(reason=reason), sole_replica).result is Result.DELETED

    @pytest.mark.parametrize("field", ["uid", "resource_version"])
    def test_a_pod_without_preconditions(self, tmp_path, field):
        self.refused(tmp_path, msgspec.structs.replace(POD, **{field: ""}), proof())


@pytest.fixture
def tls():
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return authority, context


class TestTheLastMoment:
    """Connecting takes time: what was fresh before it may be stale after it."""

    def connecting(self, tmp_path, tls, meanwhile, right=sole_replica):
        authority, context = tls
        ca = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(ca))
        clock = Clock()
        with against(answers(Answer(200, {})), tmp_path, tls=context, ca=ca, clock=clock) as (server, cluster):
            server.before_handshake = lambda: meanwhile(clock)
            outcome = cluster.delete_pod(POD, proof(), right)
        return server, outcome

    def test_nothing_happens_meanwhile(self, tmp_path, tls):
        server, outcome = self.connecting(tmp_path, tls, lambda _clock: None)
        assert outcome.result is Result.DELETED
        assert server.methods() == ["DELETE"]

    def test_the_proof_expires_while_connecting(self, tmp_path, tls):
        def later(clock):
            clock.now += 15.1

        server, outcome = self.connecting(tmp_path, tls, later)
        assert outcome.result is Result.STALE
        assert server.seen == []

    def test_the_leadership_is_lost_while_connecting(self, tmp_path, tls):
        lost = threading.Event()
        server, outcome = self.connecting(tmp_path, tls, lambda _clock: lost.set(), lambda: not lost.is_set())
        assert outcome.result is Result.STALE
        assert server.seen == []

    def test_and_over_plain_http(self, tmp_path):
        asked = []

        def right():
            asked.append(len(asked))
            return len(asked) < 2

        with against(answers(Answer(200, {})), tmp_path) as (server, cluster):
            assert cluster.delete_pod(POD, proof(), right).result is Result.STALE
        assert server.seen == []

    def test_an_untrusted_server_gets_nothing(self, tmp_path, tls):
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        with against(answers(Answer(200, {})), tmp_path, tls=tls[1], ca=other) as (server, cluster):
            outcome = cluster.delete_pod(POD, proof(), sole_replica)
        assert outcome.result is Result.ERROR
        assert "certificate" in outcome.message.lower()
        assert server.seen == []

    def test_the_next_delete_on_that_connection_is_not_affected(self, tmp_path, tls):
        authority, context = tls
        ca = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(ca))
        clock = Clock()
        with against(answers(Answer(200, {})), tmp_path, tls=context, ca=ca, clock=clock) as (server, cluster):
            right = iter([True, False, True, True])
            assert cluster.delete_pod(POD, proof(), lambda: next(right)).result is Result.STALE
            assert cluster.delete_pod(POD, proof(), lambda: next(right)).result is Result.DELETED
        assert server.methods() == ["DELETE"]
