"""Credentials from a program: what it may print, each way in which it can fail, and that nothing is left behind."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from healer.airflow.api import exec as exec_credentials
from healer.airflow.api.exec import ExecToken, Program, run
from healer.errors import LoginRefusedError, NoAnswerError
from tests.unit.airflow_fake import jwt
from tests.unit.cluster_server import write_kubeconfig

SECRET = "s3cr3t-t0ken-of-the-test"
NOW = 1_800_000_000.0
PYTHON = sys.executable
BROKEN = "session=a\r\nX-Forged: b"
BRIEF = 1.0
"""Seconds: the timeout of programs that hang."""


def program(tmp_path: Path, text: str, *, mode: int = 0o755) -> str:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return str(path)


def credential(**status: object) -> str:
    return json.dumps(
        {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "spec": {}, "status": status}
    )


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def once(command: Sequence[str], timeout: float = 30.0) -> ExecToken:
    return run(command, timeout, lambda: NOW)


def ours() -> set[str]:
    """The threads that run, without the one that watches how long a test takes."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("pytest_timeout")}


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> object:
    threads, pipes = ours(), len([*Path("/proc/self/fd").iterdir()])
    yield
    # Fewer will do: what an earlier test has left may end meanwhile.
    assert ours() <= threads
    assert len([*Path("/proc/self/fd").iterdir()]) <= pipes
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


GOOD: dict[str, tuple[str, ExecToken]] = {
    "one line": (f"echo {SECRET}", ExecToken(SECRET)),
    "no end of the line": (f"printf {SECRET}", ExecToken(SECRET)),
    "windows": (f"printf '\\357\\273\\277{SECRET}\\r\\n'", ExecToken(SECRET)),
    "with its scheme": (f"echo 'Bearer {SECRET}'", ExecToken(SECRET)),
    "in quotes": (f"echo '\"{SECRET}\"'", ExecToken(SECRET)),
    "a credential": (f"printf %s {quoted(credential(token=SECRET))}", ExecToken(SECRET)),
    "with an end": (
        f"printf %s {quoted(credential(token=SECRET, expirationTimestamp='2030-01-01T00:00:00Z'))}",
        ExecToken(SECRET, 1893456000.0),
    ),
    "an end elsewhere": (
        f"printf %s {quoted(credential(token=SECRET, expirationTimestamp='2030-01-01T01:00:00.5+01:00'))}",
        ExecToken(SECRET, 1893456000.5),
    ),
    "extra keys": (
        f"printf %s {quoted(credential(token=SECRET, clientCertificateData=1, more=[1]))}",
        ExecToken(SECRET),
    ),
    "over several lines": (f"printf '%s\\n' '{{\"status\":' '{{\"token\": \"{SECRET}\"}}}}'", ExecToken(SECRET)),
    "a session": (f"printf %s {quoted(credential(cookie='session=abc'))}", ExecToken("session=abc", is_cookie=True)),
    "a child that stays": (f"sleep 300 & echo {SECRET}", ExecToken(SECRET)),
    "much on stderr": (f"yes warning | head -c 300000 >&2; echo {SECRET}", ExecToken(SECRET)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_it_may_print(name: str, tmp_path: Path) -> None:
    text, expected = GOOD[name]
    assert once([program(tmp_path, text)]) == expected


FAILURES: dict[str, tuple[str, str]] = {
    "hangs": ("sleep 300", r"did not end within 1 s \(exec.timeout sets the limit\)"),
    "hangs after its answer": (f"echo {SECRET}; sleep 300", "did not end within 1 s"),
    "hangs without its pipes": ("exec >&- 2>&-; sleep 300", "did not end within 1 s"),
    "hangs and heeds no signal": ("trap '' TERM INT HUP; while :; do sleep 1; done", "did not end within 1 s"),
    "hangs in a child": ("sleep 300 & wait", "did not end within 1 s"),
    "floods": ("yes abcdefgh", "printed more than 64 KiB, which is no token"),
    "floods stderr": ("yes abcdefgh >&2", "did not end within 1 s .*: [a-h]+$"),
    "exits 1": ("exit 1", "ended with 1$"),
    "exits 1 and says why": ("echo first >&2; echo 'no such profile' >&2; exit 1", "ended with 1: no such profile$"),
    "exits 1 with its token": (f"echo {SECRET}; exit 1", "ended with 1$"),
    "is killed": ("kill -KILL $$", "was ended by SIGKILL"),
    "prints nothing": (":", "printed nothing: it must print a token or an ExecCredential"),
    "prints empty lines": ("printf '\\n \\n'", "printed nothing"),
    "two lines": (f"echo {SECRET}; echo {SECRET}", "printed more than one line"),
    "a sentence": ("echo please log in first", "printed what can't be a token"),
    "no text": ("printf '\\377\\376\\000'", "printed what is no text in UTF-8"),
    "no ASCII": ("printf 'tök\\303\\274n'", "printed what can't be a token"),
    "half of JSON": ('echo \'{"status": {"token": "\'', "printed JSON that is no ExecCredential"),
    "other JSON": (f'echo \'{{"access_token": "{SECRET}"}}\'', "printed JSON that is no ExecCredential"),
    "no status.token": (f"printf %s {quoted(credential())}", "printed an ExecCredential without status.token"),
    "a certificate": (f"printf %s {quoted(credential(clientCertificateData='x'))}", "certificates alone won't do"),
    "a token that is a number": (f"printf %s {quoted(credential(token=1))}", "printed JSON that is no ExecCredential"),
    "a date that is none": (
        f"printf %s {quoted(credential(token=SECRET, expirationTimestamp='tomorrow'))}",
        "status.expirationTimestamp as 2030-01-31T12:00:00Z",
    ),
    "a date without a zone": (
        f"printf %s {quoted(credential(token=SECRET, expirationTimestamp='2030-01-01T00:00:00'))}",
        "an expirationTimestamp without a time zone: end it with Z",
    ),
    "past its end": (
        f"printf %s {quoted(credential(token=SECRET, expirationTimestamp='2020-01-01T00:00:00Z'))}",
        "printed a token that has already expired",
    ),
    "a cookie with a line's end": (f"printf %s {quoted(credential(cookie=BROKEN))}", "a cookie with forbidden"),
    "nested for ever": ("yes '{\"status\":' | head -n 5000 | tr -d '\\n'", "printed JSON that is no ExecCredential"),
    "tells its token": (f"echo {SECRET}; echo 'refused {SECRET}' >&2; exit 3", r"ended with 3: refused \*\*\*$"),
    "tells its token out of JSON": (
        f"printf %s {quoted(credential(token=SECRET))}; echo 'refused {SECRET}' >&2; exit 3",
        r"ended with 3: refused \*\*\*$",
    ),
    "tells its token out of compact JSON": (
        f'echo \'{{"status":{{"token":"{SECRET}"}}}}\'; echo "refused {SECRET}" >&2; exit 3',
        r"ended with 3: refused \*\*\*$",
    ),
    "tells its cookie": (
        f"echo 'session={SECRET}; Path=/'; echo 'refused {SECRET}' >&2; exit 3",
        r"ended with 3: refused \*\*\*$",
    ),
    "tells its token and hangs": (
        f"echo {SECRET}; echo 'waiting with {SECRET}' >&2; sleep 300",
        r"did not end within 1 s .*: waiting with \*\*\*$",
    ),
    "tells its token and floods": (
        f"echo {SECRET}; echo 'flooding with {SECRET}' >&2; yes abcdefgh",
        r"printed more than 64 KiB.*: flooding with \*\*\*$",
    ),
    "tells a token longer than a page": (
        f"printf '{SECRET}%05000d' 0; printf '+ echo {SECRET}%05000d' 0 >&2; exit 3",
        r"ended with 3: \+ echo \*\*\*$",
    ),
    "the first of all days": (
        f"printf %s {quoted(credential(token=SECRET, expirationTimestamp='0001-01-01T00:00:00+14:00'))}",
        "printed a token that has already expired",
    ),
    "tells a header": (f"echo 'Authorization: Bearer {SECRET}' >&2; exit 3", r"ended with 3: Authorization: Bearer \*"),
    "tells a novel": ("yes | head -c 100000 | tr -d '\\n' >&2; exit 3", "ended with 3: y{200}…$"),
    "steers the terminal": ("printf '\\033[2Jgone' >&2; exit 3", r"ended with 3: \\x1b\[2Jgone$"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_is_one_sentence_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    text, says = FAILURES[name]
    with pytest.raises(NoAnswerError, match=says) as caught:
        once([program(tmp_path, text)], timeout=BRIEF)
    said = str(caught.value)
    assert said.startswith("exec: the program program ")
    assert SECRET not in said
    assert said.isprintable()
    assert len(said) < 500


def test_a_program_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(NoAnswerError, match=r"^exec: there is no program nowhere: No such file or directory$"):
        once([str(tmp_path / "nowhere"), SECRET])


def test_a_program_whose_interpreter_is_absent(tmp_path: Path) -> None:
    path = Path(program(tmp_path, ""))
    path.write_text("#!/no/such/interpreter\n")
    with pytest.raises(NoAnswerError, match="there is no program program"):
        once([str(path)])


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_program_that_may_not_be_run(tmp_path: Path, what: str) -> None:
    path = program(tmp_path, "echo x", mode=0o644) if what == "file" else str(tmp_path)
    with pytest.raises(NoAnswerError, match=r"may not be run: it must be executable$"):
        once([path])


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    path = Path(program(tmp_path, ""))
    path.write_bytes(b"\x00\x01\x02")
    with pytest.raises(NoAnswerError, match=r"can't be run: Exec format error$"):
        once([str(path)])


@pytest.mark.parametrize("argument", ["a\0b", "x" * (1 << 20)], ids=["NUL", "too long"])
def test_arguments_that_cannot_be_passed_on_are_not_told(argument: str) -> None:
    with pytest.raises(NoAnswerError, match=r"^exec: the program echo can't be run: ") as caught:
        once(["echo", argument])
    assert len(str(caught.value)) < 200


def test_no_process_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(NoAnswerError, match="can't be run: Resource temporarily unavailable"):
        once(["echo", "x"])


def test_there_is_no_shell(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    assert once(["printf", "%s", f"$(touch${{IFS}}{victim})"]).token == f"$(touch${{IFS}}{victim})"
    assert not victim.exists()


def test_it_reads_nothing_from_our_terminal(tmp_path: Path) -> None:
    assert once([program(tmp_path, "cat; echo end")]).token == "end"


def test_it_gets_our_variables_but_not_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "healer")
    monkeypatch.setenv("KPO_HEALER_AIRFLOW_PASSWORD", SECRET)
    monkeypatch.setenv("KPO_HEALER_AIRFLOW_TOKEN", SECRET)
    text = 'echo "$AWS_PROFILE-${KPO_HEALER_AIRFLOW_PASSWORD:-none}-${KPO_HEALER_AIRFLOW_TOKEN:-none}"'
    assert once([program(tmp_path, text)]).token == "healer-none-none"


def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    """Children and grandchildren of its process group are gone when the answer is there."""
    note = tmp_path / "pids"
    once([program(tmp_path, f"(sleep 300 & echo $! >> {note}; sleep 300) & echo $! >> {note}; sleep 0.2; echo tok")])
    pids = note.read_text().split()
    assert len(pids) == 2
    for pid in pids:
        assert gone(int(pid)), pid


def gone(pid: int) -> bool:
    """Whether a process ends in a moment; one that somebody else has still to reap has ended, too."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False


AS_FIRST_PROCESS = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: orphans become ours, as in a container
from healer.airflow.api.exec import run
from healer.errors import NoAnswerError
for command in (["/bin/sh", "-c", "(sleep 300 & sleep 300) & echo token"], ["/bin/sh", "-c", "sleep 300 & sleep 300"]):
    try:
        print(run(command, 0.5).token)
    except NoAnswerError as failed:
        print(failed)
try:
    os.waitpid(-1, os.WNOHANG)
    print("a child is left")
except ChildProcessError:
    print("none left")
"""


def test_no_zombie_stays_where_we_are_the_first_process_of_a_container() -> None:
    done = subprocess.run([PYTHON, "-c", AS_FIRST_PROCESS], capture_output=True, text=True, check=True, timeout=60)
    token, failed, left = done.stdout.splitlines()
    assert (token, left) == ("token", "none left")
    assert "did not end within 0.5 s" in failed


CONFIG = """
listen: "127.0.0.1:0"
airflows: [{{name: p, namespaces: [a], url: "http://127.0.0.1:9", exec: {{command: ["{program}"], timeout: 5m}}}}]
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("command", ["check", "run"])
def test_it_ends_with_us(command: str, number: signal.Signals, tmp_path: Path) -> None:
    note, config = tmp_path / "pid", tmp_path / "config.yaml"
    config.write_text(
        CONFIG.format(program=program(tmp_path, f"echo $$ > {note}.new; mv {note}.new {note}; sleep 300"))
    )
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9")
    words = [PYTHON, "-m", "healer", command, "--config", config, "--kubeconfig", kubeconfig]
    ours = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not note.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        ours.send_signal(number)
        ours.wait(60)
    finally:
        ours.kill()
        ours.wait()
    assert gone(int(note.read_text()))


def test_one_that_is_just_being_started_ends_with_us_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a program is at work before whoever starts it hears of that."""
    note, go = tmp_path / "pid", threading.Event()
    start = subprocess.Popen

    def busy(*words: object, **options: object) -> object:
        process = start(*words, **options)  # type: ignore[call-overload]
        assert go.wait(60)
        return process

    monkeypatch.setattr(exec_credentials.subprocess, "Popen", busy)
    command = [program(tmp_path, f"echo $$ > {note}.new; mv {note}.new {note}; sleep 300")]
    failures: list[NoAnswerError] = []

    def ask() -> None:
        with pytest.raises(NoAnswerError) as failed:
            once(command, timeout=300)
        failures.append(failed.value)

    asking, ending = threading.Thread(target=ask), threading.Thread(target=exec_credentials.end_programs)
    asking.start()
    while not note.exists():
        time.sleep(0.01)
    ending.start()
    go.set()
    ending.join(60)
    asking.join(60)
    assert "was ended by" in str(failures[0])
    assert gone(int(note.read_text()))


def test_a_token_never_shows() -> None:
    assert SECRET not in repr(ExecToken(SECRET, 1.0))


# The program as a source of credentials


class Scripted:
    """Prints one answer after the other; the last one again and again. Counts how often it was run."""

    def __init__(self, *answers: ExecToken | NoAnswerError) -> None:
        self.answers, self.runs = list(answers), 0

    def __call__(self, command: Sequence[str], timeout: float) -> ExecToken:
        answer = self.answers[min(self.runs, len(self.answers) - 1)]
        self.runs += 1
        if isinstance(answer, NoAnswerError):
            raise answer
        return answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(exec_credentials, "boottime", lambda: now[0])
    return now


def source(scripted: Callable[[Sequence[str], float], ExecToken], clock: list[float]) -> Program:
    return Program(["x"], 30.0, scripted, lambda: NOW + clock[0] - 1000.0)


def same_as(refused: ExecToken) -> Callable[[ExecToken], bool]:
    return lambda token: token == refused


def test_it_is_run_once_for_many_questions(clock: list[float]) -> None:
    scripted = Scripted(ExecToken("a"))
    program = source(scripted, clock)
    assert {program.current().token for _ in range(100)} == {"a"}
    clock[0] += 1e9
    assert (program.current().token, scripted.runs) == ("a", 1), "without an end it holds until it is refused"


@pytest.mark.parametrize(
    ("token", "fresh_until", "stale_at"),
    [
        (ExecToken("a", NOW + 3600), 2999, 3001),
        (ExecToken("a", NOW + 100), 79, 81),
        (ExecToken(jwt(3600)), 2999, 3001),
    ],
    ids=["an hour", "short", "the token says so"],
)
def test_it_is_run_again_shortly_before_the_end(
    token: ExecToken, fresh_until: float, stale_at: float, clock: list[float]
) -> None:
    scripted = Scripted(token, ExecToken("b", NOW + 9e9))
    program = source(scripted, clock)
    program.current()
    clock[0] = 1000.0 + fresh_until
    assert program.current() == token
    clock[0] = 1000.0 + stale_at
    assert program.current().token == "b"


def test_a_renewal_that_fails_early_leaves_the_old_token_to_its_end(clock: list[float]) -> None:
    scripted = Scripted(ExecToken("a", NOW + 3600), NoAnswerError("exec: tired"))
    program = source(scripted, clock)
    program.current()
    clock[0] += 3550
    assert [program.current().token for _ in range(50)] == ["a"] * 50
    assert (scripted.runs, program.failures) == (2, 1), "a program that fails is not run for each question"
    clock[0] += 100
    with pytest.raises(NoAnswerError, match="tired"):
        program.current()


def test_a_program_that_fails_is_run_more_and_more_seldom(clock: list[float]) -> None:
    scripted = Scripted(NoAnswerError("exec: tired"))
    program = source(scripted, clock)
    for _ in range(3600):
        with pytest.raises(NoAnswerError, match="tired"):
            program.current()
        clock[0] += 1
    assert 10 <= scripted.runs <= 20
    scripted.answers = [ExecToken("b")]
    clock[0] += 300
    assert program.current().token == "b"


def test_after_a_refusal_it_is_run_again_once(clock: list[float]) -> None:
    scripted = Scripted(ExecToken("a"), ExecToken("b"), ExecToken("c"))
    program = source(scripted, clock)
    refused = program.current()
    assert program.renewed(same_as(refused), "no").token == "b"
    assert program.renewed(same_as(refused), "no").token == "b", "another thread was refused with the old one"
    assert scripted.runs == 2
    with pytest.raises(LoginRefusedError, match=r"^no; the program of exec printed it, and is run again in 5 s$"):
        program.renewed(same_as(program.current()), "no")
    assert scripted.runs == 2
    clock[0] += 60
    assert program.renewed(same_as(program.current()), "no").token == "c"


def test_the_same_token_again_is_a_refused_login(clock: list[float]) -> None:
    program = source(Scripted(ExecToken("a")), clock)
    with pytest.raises(LoginRefusedError, match="prints the same one again"):
        program.renewed(same_as(program.current()), "no")


def test_a_run_that_failed_after_a_refusal_is_made_up_for(clock: list[float]) -> None:
    """The old token may be accepted again meanwhile: the failures are forgotten only when the program is well."""
    scripted = Scripted(ExecToken("a"), NoAnswerError("exec: tired"), NoAnswerError("exec: tired"), ExecToken("b"))
    program = source(scripted, clock)
    refused = program.current()
    with pytest.raises(NoAnswerError, match="tired"):
        program.renewed(same_as(refused), "no")
    assert (program.current().token, program.failures, scripted.runs) == ("a", 1, 2)
    clock[0] += 6
    assert (program.current().token, program.failures, scripted.runs) == ("a", 2, 3)
    clock[0] += 11
    assert (program.current().token, program.failures, scripted.runs) == ("b", 0, 4)


def test_many_threads_run_it_once(clock: list[float]) -> None:
    begun = threading.Barrier(8)
    scripted = Scripted(ExecToken("a"))
    program = source(scripted, clock)
    seen: list[str] = []

    def ask() -> None:
        begun.wait()
        seen.append(program.current().token)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (seen, scripted.runs) == (["a"] * 8, 1)


def test_when_the_token_ends(clock: list[float]) -> None:
    payload = base64.urlsafe_b64encode(b'{"exp": 1893456000, "iat": 1893452400}').decode().rstrip("=")
    for token, end in [
        (ExecToken("a"), None),
        (ExecToken("a", NOW + 60), NOW + 60),
        (ExecToken(f"x.{payload}.x"), 1893456000.0),
    ]:
        program = source(Scripted(token), clock)
        assert program.expires is None
        program.current()
        assert program.expires == end


def test_there_are_at_least_twenty_ways_to_fail() -> None:
    assert len(FAILURES) >= 20
    assert not [says for _, says in FAILURES.values() if re.search(SECRET, says)]
