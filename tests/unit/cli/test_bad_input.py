"""Bad input and bad servers: one sentence that says what to do, the documented exit code, and nothing deleted.

The configuration of these tests deletes at the first sight; the control shows that it does so when all is well.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trustme
import yaml

from tests.unit.cli_world import (
    Answer,
    Outcome,
    Seen,
    World,
    answer,
    good_airflow,
    serving,
    world,
)
from tests.unit.cluster_server import write_kubeconfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_logging")]

ONE_SHOT = (("scan",), ("scan", "-o", "json"), ("explain", "a/p"), ("run", "--once"))


def is_one_sentence(outcome: Outcome, *words: str) -> None:
    lines = [line for line in outcome.err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith(("error: ", "incomplete: "))
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in outcome.out + outcome.err


def test_control_the_same_world_in_good_order_deletes(good: World) -> None:
    assert good.run("scan").code == 1
    assert good.run("explain", "a/p").code == 0
    assert good.run("check").code == 0
    assert good.deletions == 0
    assert good.run("run", "--once").code == 0
    assert good.deletions == 1


# --- an Airflow that gives no clear answer: incomplete, and check says so -------------------------------------------


def wrong_url(seen: Seen) -> Answer:
    return answer(404, {"detail": "Not Found"})


def html(seen: Seen) -> Answer:
    return Answer(200, b"<html><body>Welcome</body></html>", "text/html")


def login_page(seen: Seen) -> Answer:
    return Answer(302, location="https://sso.example.com/login?next=x")


def unknown_version(seen: Seen) -> Answer:
    return answer(200, {"version": "4.0.1"}) if seen.path.endswith("/version") else good_airflow(seen)


def airflow_2_9(seen: Seen) -> Answer:
    if seen.path.endswith("/api/v1/version"):
        return answer(200, {"version": "2.9.3"})
    return answer(404, {"title": "Not Found", "status": 404, "type": "about:blank", "detail": None})


def server_error(seen: Seen) -> Answer:
    return Answer(500, b"Internal Server Error", "text/plain")


def reset(seen: Seen) -> Answer:
    return Answer(reset=True)


def not_json(seen: Seen) -> Answer:
    return Answer(200, b'{"version": ')


BAD_AIRFLOWS = {
    "wrong URL": (wrong_url, ("has no API of Airflow: give the address",)),
    "HTML": (html, ("not JSON", "address of")),
    "login page": (login_page, ("redirected to a login page",)),
    "unknown version": (unknown_version, ("4.0.1",)),
    "Airflow 2.9": (airflow_2_9, ("is Airflow 2.9.3: up to 2.9", "upgrade to 2.10")),
    "server error": (server_error, ("500",)),
    "reset": (reset, ()),
    "not JSON": (not_json, ("can't be read",)),
}


@pytest.mark.parametrize("command", ONE_SHOT, ids=" ".join)
@pytest.mark.parametrize("name", BAD_AIRFLOWS)
def test_a_bad_airflow(name: str, command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, words = BAD_AIRFLOWS[name]
    with world(tmp_path, capsys, airflow=script) as made:
        outcome = made.run(*command)
        assert outcome.code == 3, outcome
        is_one_sentence(outcome, "Airflow", *words)
        assert made.deletions == 0


@pytest.mark.parametrize("name", BAD_AIRFLOWS)
def test_check_of_a_bad_airflow(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, words = BAD_AIRFLOWS[name]
    with world(tmp_path, capsys, airflow=script) as made:
        outcome = made.run("check")
        assert outcome.code == 1
        assert outcome.err == ""
        failed = [line for line in outcome.out.splitlines() if line.startswith("fail")]
        assert len(failed) == 1
        assert all(word in failed[0] for word in ("airflow prod", *words))


@pytest.mark.parametrize("command", ONE_SHOT, ids=" ".join)
def test_nothing_listens(command: tuple[str, ...], good: World) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = good.run(*command, config=good.config(url=f"http://127.0.0.1:{unused.getsockname()[1]}"))
    assert outcome.code == 3
    is_one_sentence(outcome, "Airflow", "refuses the connection: check url")
    assert good.deletions == 0


@pytest.mark.parametrize("command", ONE_SHOT, ids=" ".join)
def test_a_silent_server(command: tuple[str, ...], good: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outcome = good.run(*command, config=good.config(url=f"http://127.0.0.1:{silent.getsockname()[1]}"))
    assert outcome.code == 3
    is_one_sentence(outcome, "gave no full answer within 0.4 s")
    assert good.deletions == 0


@pytest.mark.parametrize("command", ONE_SHOT, ids=" ".join)
def test_an_untrusted_certificate(command: tuple[str, ...], good: World) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with serving(good_airflow, tls=context) as server:
        outcome = good.run(*command, config=good.config(url=f"https://localhost:{server.port}"))
    assert outcome.code == 3
    is_one_sentence(outcome, "TLS", "caFile")
    assert good.deletions == 0


def test_a_ca_file_that_holds_no_certificate(good: World) -> None:
    (good.folder / "ca.pem").write_text("not a certificate")
    outcome = good.run("scan", config=good.config(url="https://localhost:1", caFile=str(good.folder / "ca.pem")))
    assert outcome.code == 2
    is_one_sentence(outcome, "caFile", "holds no certificate in PEM")


# --- a refused login is a mistake of the user's ---------------------------------------------------------------------


def wrong_password(seen: Seen) -> Answer:
    return answer(401, {"detail": "Invalid credentials"}) if seen.path == "/auth/token" else good_airflow(seen)


@pytest.mark.parametrize("command", ONE_SHOT, ids=" ".join)
def test_a_wrong_password(command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with world(tmp_path, capsys, airflow=wrong_password) as made:
        outcome = made.run(*command)
        assert outcome.code == 2
        is_one_sentence(outcome, "login refused", "healer")
        assert made.deletions == 0
        outcome = made.run("check")
        assert outcome.code == 1
        assert "login refused" in outcome.out


# --- the cluster ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [*ONE_SHOT, ("check",), ("run",)], ids=" ".join)
def test_an_unknown_context(command: tuple[str, ...], good: World) -> None:
    outcome = good.run(*command, "--context", "nowhere", "--listen", "127.0.0.1:0")
    assert outcome.code == 2
    is_one_sentence(outcome, "no context of the name given", "fake")


def test_no_kubeconfig(good: World) -> None:
    outcome = good.run("scan", "--kubeconfig", str(good.folder / "missing"))
    assert outcome.code == 2
    is_one_sentence(outcome, "no kubeconfig at", "--kubeconfig or KUBECONFIG")


def test_a_pod_that_does_not_exist(good: World) -> None:
    outcome = good.run("explain", "a/missing")
    assert outcome.code == 2
    is_one_sentence(outcome, "there is no Pod a/missing")


def test_a_pod_of_a_namespace_that_is_nobodys(good: World) -> None:
    outcome = good.run("explain", "elsewhere/p")
    assert outcome.code == 2
    is_one_sentence(outcome, "namespace elsewhere belongs to no Airflow")


@pytest.mark.parametrize("name", ["a/", "/p", "a/b/c", "", "a/..", "../a", "a/P", "a/p?x=y", "a/" + "p" * 254])
def test_what_is_no_pods_name(name: str, good: World) -> None:
    outcome = good.run("explain", name)
    assert outcome.code == 2
    is_one_sentence(outcome, "write NAMESPACE/POD")


@pytest.mark.parametrize("command", ONE_SHOT, ids=" ".join)
def test_no_api_server(command: tuple[str, ...], good: World) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        other = write_kubeconfig(good.folder / "other", f"http://127.0.0.1:{unused.getsockname()[1]}")
        outcome = good.run(*command, "--kubeconfig", str(other))
    assert outcome.code == 3
    is_one_sentence(outcome)


def forbidden(seen: Seen) -> Answer:
    return answer(403, {"kind": "Status", "message": "pods is forbidden", "reason": "Forbidden"})


@pytest.mark.parametrize("command", ONE_SHOT, ids=" ".join)
def test_no_rights(command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with world(tmp_path, capsys, cluster=forbidden) as made:
        outcome = made.run(*command)
        assert outcome.code == 3
        is_one_sentence(outcome, "may not", "kubectl create role")


# --- the configuration: all commands refuse it alike ----------------------------------------------------------------


BAD_CONFIGS = {
    "unknown key": ({"policy": {"grac": "2m"}}, "airflows[0].policy.grac: unknown key: did you mean grace?"),
    "bad duration": ({"policy": {"grace": "2 minutes"}}, "airflows[0].policy.grace: is not a duration"),
    "no unit": ({"timeout": 60}, "airflows[0].timeout: is not a duration: it has no unit"),
    "empty namespaces": ({"namespaces": []}, "airflows[0].namespaces: is empty: name at least one"),
    "enforce without ownership": ({"ownership": None}, "airflows[0].ownership: enforce mode needs it"),
    "unreadable password": (
        {"password": None, "passwordFile": "/nowhere/password"},
        "airflows[0].passwordFile: can't read the file that it names: No such file or directory",
    ),
    "no URL": ({"url": "airflow:8080"}, "airflows[0].url: is not the URL of an Airflow"),
}


@pytest.mark.parametrize("command", [*ONE_SHOT, ("check",), ("run",)], ids=" ".join)
@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_bad_configuration(name: str, command: tuple[str, ...], good: World) -> None:
    changes, sentence = BAD_CONFIGS[name]
    outcome = good.run(*command, config=good.config(**changes))
    assert outcome.code == 2
    is_one_sentence(outcome, sentence)
    assert good.cluster.seen == []


def test_two_exclusive_airflows_in_one_namespace(good: World) -> None:
    path = good.config()
    document = yaml.safe_load(path.read_text())
    document["airflows"].append(document["airflows"][0] | {"name": "test"})
    path.write_text(yaml.safe_dump(document))
    outcome = good.run("scan", "--config", str(path))
    assert outcome.code == 2
    is_one_sentence(outcome, "namespace a is claimed by prod and test")


def test_an_unreadable_configuration(good: World) -> None:
    outcome = good.run("scan", "--config", str(good.folder / "missing.yaml"))
    assert outcome.code == 2
    is_one_sentence(outcome, "can't read the configuration", "No such file or directory")


def test_no_configuration_at_all(good: World) -> None:
    outcome = good.run("scan", env={"SOME": "thing"})
    assert outcome.code == 2
    is_one_sentence(outcome, "no Airflow is described: give a file with --config")


def test_a_lease_that_two_would_hold(good: World) -> None:
    path = good.config()
    path.write_text(path.read_text() + "leaderElection: {leaseDuration: 5s}\n")
    outcome = good.run("run", "--config", str(path))
    assert outcome.code == 2
    is_one_sentence(outcome, "leaderElection: leaseDuration must be longer than renewDeadline")


def test_a_port_that_is_taken(good: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = good.run("run", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert outcome.code == 2
    is_one_sentence(outcome, "can't listen on 127.0.0.1:", "--listen")


# --- the command line itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scna",), ("No such command", "scan", "--help")),
        (("scan", "--al"), ("No such option", "--all")),
        (("scan", "--mode", "delete"), ("--mode", "report", "enforce")),
        (("scan", "-o", "xml"), ("-o", "table", "json", "yaml")),
        (("explain",), ("NAMESPACE/POD",)),
        (("delete", "--yes"), ("[NAMESPACE/]POD", "is missing")),
        (("release",), ("--airflow", "is missing")),
        (("run", "-o", "json"), ("--output with --once only",)),
        (("scan", "extra"), ("unexpected extra argument",)),
        (("scan", "--log-level", "loud"), ("--log-level", "debug")),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_use(arguments: tuple[str, ...], words: tuple[str, ...], good: World) -> None:
    outcome = good.run(*arguments) if arguments[0] != "scna" else good.run(*arguments, "--config", "x")
    assert outcome.code == 2
    is_one_sentence(outcome, *words)
    assert outcome.out == ""
