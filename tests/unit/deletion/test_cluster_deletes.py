"""The DELETE: sent once, for the right Pod, while its proof is fresh and the right to act holds; else not at all."""

import contextlib
import socket
import ssl
import threading

import msgspec
import pytest
import trustme

from healer.cluster import Cluster, Connection, decode_pod
from healer.deletion.pod_deleter import Evidence, PodDeleter
from healer.model import ACTING, DeleteStatus, Finding, Reason
from tests.unit.cluster_server import Answer, raw_pod, serving, write_kubeconfig
from tests.unit.fakes import always_leader

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
    return Evidence(Finding(reason, "because"), 1000.0 - age)


def status(code, message, **headers):
    return Answer(code, {"kind": "Status", "message": message, "code": code}, headers)


class TestWhatIsSent:
    def test_body_and_path(self, tmp_path):
        with against(answers(Answer(200, {})), tmp_path) as (server, cluster):
            assert PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader).status is DeleteStatus.DELETED
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
            PodDeleter.of(cluster).delete_pod(odd, proof(), always_leader)
        assert server.seen[0].path == "/api/v1/namespaces/a/pods/..%2F..%2Fx%3Fy"


class TestResults:
    @pytest.mark.parametrize(
        ("code", "result"),
        [
            (200, DeleteStatus.DELETED),
            (202, DeleteStatus.DELETED),
            (404, DeleteStatus.GONE),
            (409, DeleteStatus.CONFLICT),
            (403, DeleteStatus.DENIED),
            (422, DeleteStatus.DENIED),
            (301, DeleteStatus.ERROR),
            (307, DeleteStatus.ERROR),
            (400, DeleteStatus.ERROR),
            (401, DeleteStatus.ERROR),
            (429, DeleteStatus.ERROR),
            (500, DeleteStatus.ERROR),
            (503, DeleteStatus.ERROR),
            (504, DeleteStatus.ERROR),
        ],
    )
    def test_one_request_for_each_status(self, tmp_path, code, result):
        headers = {"Retry-After": "0", "Location": "/api/v1/namespaces/a/pods/q"}
        with against(answers(Answer(code, {"message": "so it is"}, headers)), tmp_path) as (server, cluster):
            outcome = PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader)
        assert outcome.status is result
        assert server.methods() == ["DELETE"]
        assert server.observed == [("delete", str(code))]
        assert "a/p" in outcome.message
        if code >= 400 and code != 404:
            assert "so it is" in outcome.message

    @pytest.mark.parametrize("code", [429, 503])
    def test_retry_after_is_told_and_not_followed(self, tmp_path, code):
        with against(answers(status(code, "later", **{"Retry-After": "4"})), tmp_path) as (server, cluster):
            outcome = PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader)
        assert (outcome.status, outcome.retry_after) == (DeleteStatus.ERROR, 4.0)
        assert server.methods() == ["DELETE"]

    def test_a_status_in_place_of_the_pod_is_a_success(self, tmp_path):
        answer = Answer(200, {"kind": "Status", "status": "Success"})
        with against(answers(answer), tmp_path) as (_, cluster):
            assert PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader).status is DeleteStatus.DELETED

    def test_a_success_whose_body_never_ends_is_a_success(self, tmp_path):
        with against(answers(Answer(200, {}, cut=True)), tmp_path) as (server, cluster):
            assert PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader).status is DeleteStatus.DELETED
        assert server.methods() == ["DELETE"]

    def test_html_of_a_proxy(self, tmp_path):
        with against(answers(Answer(502, b"<html>Bad Gateway")), tmp_path) as (_, cluster):
            outcome = PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader)
        assert outcome.status is DeleteStatus.ERROR
        assert "Bad Gateway" in outcome.message


class TestBrokenConnections:
    def test_reset_before_the_answer(self, tmp_path):
        with against(answers(Answer(reset=True)), tmp_path) as (server, cluster):
            outcome = PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader)
        assert outcome.status is DeleteStatus.ERROR
        assert "not known" in outcome.message
        assert server.methods() == ["DELETE"]
        assert server.observed == [("delete", "unreachable")]

    def test_reset_of_a_pooled_connection(self, tmp_path):
        script = answers(Answer(200, {"gitVersion": "v1"}), Answer(reset=True))
        with against(script, tmp_path) as (server, cluster):
            cluster.version()
            assert PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader).status is DeleteStatus.ERROR
        assert server.methods() == ["GET", "DELETE"]

    def test_silence(self, tmp_path, monkeypatch):
        monkeypatch.setattr("healer.deletion.pod_deleter.TIMEOUT", 0.2)
        go_on = threading.Event()
        try:
            with against(answers(Answer(200, {}, wait=go_on)), tmp_path) as (server, cluster):
                outcome = PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader)
                go_on.set()
        finally:
            go_on.set()
        assert outcome.status is DeleteStatus.ERROR
        assert "did not answer" in outcome.message
        assert server.methods() == ["DELETE"]
        assert server.observed == [("delete", "timeout")]

    def test_nobody_listens(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        path = write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}")
        with Cluster(Connection(path), clock=Clock()) as cluster:
            outcome = PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader)
        assert outcome.status is DeleteStatus.ERROR
        assert "can't be reached" in outcome.message


class TestRefusals:
    """Nothing leaves this process."""

    def refused(self, tmp_path, pod, evidence, right=always_leader):
        with against(answers(Answer(200, {})), tmp_path) as (server, cluster):
            outcome = PodDeleter.of(cluster).delete_pod(pod, evidence, right)
        assert outcome.status is DeleteStatus.STALE
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
            assert PodDeleter.of(cluster).delete_pod(POD, proof(age=15.0), always_leader).status is DeleteStatus.DELETED

    def test_no_leader(self, tmp_path):
        assert "not the leader" in self.refused(tmp_path, POD, proof(), lambda: False)

    @pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in ACTING])
    def test_a_reason_that_keeps(self, tmp_path, reason):
        self.refused(tmp_path, POD, proof(reason=reason))

    @pytest.mark.parametrize("reason", ACTING)
    def test_a_reason_that_may_act(self, tmp_path, reason):
        with against(answers(Answer(200, {})), tmp_path) as (_, cluster):
            assert (
                PodDeleter.of(cluster).delete_pod(POD, proof(reason=reason), always_leader).status
                is DeleteStatus.DELETED
            )

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

    def connecting(self, tmp_path, tls, meanwhile, right=always_leader):
        authority, context = tls
        ca = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(ca))
        clock = Clock()
        with against(answers(Answer(200, {})), tmp_path, tls=context, ca=ca, clock=clock) as (server, cluster):
            server.before_handshake = lambda: meanwhile(clock)
            outcome = PodDeleter.of(cluster).delete_pod(POD, proof(), right)
        return server, outcome

    def test_nothing_happens_meanwhile(self, tmp_path, tls):
        server, outcome = self.connecting(tmp_path, tls, lambda _clock: None)
        assert outcome.status is DeleteStatus.DELETED
        assert server.methods() == ["DELETE"]

    def test_the_proof_expires_while_connecting(self, tmp_path, tls):
        def later(clock):
            clock.now += 15.1

        server, outcome = self.connecting(tmp_path, tls, later)
        assert outcome.status is DeleteStatus.STALE
        assert server.seen == []

    def test_the_leadership_is_lost_while_connecting(self, tmp_path, tls):
        lost = threading.Event()
        server, outcome = self.connecting(tmp_path, tls, lambda _clock: lost.set(), lambda: not lost.is_set())
        assert outcome.status is DeleteStatus.STALE
        assert server.seen == []

    def test_and_over_plain_http(self, tmp_path):
        asked = []

        def right():
            asked.append(len(asked))
            return len(asked) < 2

        with against(answers(Answer(200, {})), tmp_path) as (server, cluster):
            assert PodDeleter.of(cluster).delete_pod(POD, proof(), right).status is DeleteStatus.STALE
        assert server.seen == []

    def test_an_untrusted_server_gets_nothing(self, tmp_path, tls):
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        with against(answers(Answer(200, {})), tmp_path, tls=tls[1], ca=other) as (server, cluster):
            outcome = PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader)
        assert outcome.status is DeleteStatus.ERROR
        assert "certificate" in outcome.message.lower()
        assert server.seen == []

    def test_the_next_delete_on_that_connection_is_not_affected(self, tmp_path, tls):
        authority, context = tls
        ca = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(ca))
        clock = Clock()
        with against(answers(Answer(200, {})), tmp_path, tls=context, ca=ca, clock=clock) as (server, cluster):
            right = iter([True, False, True, True])
            assert PodDeleter.of(cluster).delete_pod(POD, proof(), lambda: next(right)).status is DeleteStatus.STALE
            assert PodDeleter.of(cluster).delete_pod(POD, proof(), lambda: next(right)).status is DeleteStatus.DELETED
        assert server.methods() == ["DELETE"]


class TestTheSelector:
    def test_what_it_leaves_out_is_not_deleted_whatever_was_found_of_it(self, tmp_path):
        worker = msgspec.structs.replace(POD, selected=False)
        with against(answers(Answer(200, {})), tmp_path) as (server, cluster):
            for reason in ACTING:
                outcome = PodDeleter.of(cluster).delete_pod(worker, proof(reason=reason), always_leader)
                assert outcome.status is DeleteStatus.STALE
                assert "the selector leaves it out" in outcome.message
        assert server.seen == []


class TestIdle:
    """Who gives the leadership up waits for `settled`: what has passed its last check must not be missed there."""

    def test_a_delete_is_under_way_from_before_its_first_check_until_its_end(self, tmp_path):
        during = []
        with against(answers(Answer(200, {})), tmp_path) as (_, cluster):

            def right():
                during.append(PodDeleter.of(cluster).wait_idle(0))
                return True

            assert PodDeleter.of(cluster).wait_idle(0)
            assert PodDeleter.of(cluster).delete_pod(POD, proof(), right).status is DeleteStatus.DELETED
            assert during == [False, False], "once before connecting, once right before sending"
            assert PodDeleter.of(cluster).wait_idle(0)

    @pytest.mark.parametrize("right", [lambda: False, lambda: 1 / 0])
    def test_one_that_is_not_sent_is_over(self, tmp_path, right):
        with against(answers(Answer(200, {})), tmp_path) as (_, cluster):
            with contextlib.suppress(ZeroDivisionError):
                PodDeleter.of(cluster).delete_pod(POD, proof(), right)
            assert PodDeleter.of(cluster).wait_idle(0)

    def test_one_that_the_server_did_not_answer_is_over(self, tmp_path):
        with against(answers(Answer(reset=True)), tmp_path) as (_, cluster):
            PodDeleter.of(cluster).delete_pod(POD, proof(), always_leader)
            assert PodDeleter.of(cluster).wait_idle(0)
