"""`kpo-healer token google|mwaa`: google-auth and botocore themselves, against a metadata server and endpoints on
loopback to which their own environment variables point. No real Google Cloud and no real AWS was asked."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from healer.airflow.api.exec import ExecToken, run
from healer.errors import NoAnswerError
from tests.lab import platforms
from tests.lab.serving import in_a_thread
from tests.unit.airflow_fake import jwt

SECRET = "ya29.s3cr3t-access-token-of-google"
WEB = "web-t0ken-s3cr3t"
KEY = "aws-s3cr3t-key/of+the+test"
SESSION = ".eJw-s3cr3t.session"
TOKEN = jwt(3600)
SAID = (SECRET, WEB, KEY, SESSION, TOKEN)

Answer = tuple[int, dict[str, str], str]
Respond = Callable[["Request"], Answer | None]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Server:
    """Answers what `respond` says; None: nothing at all."""

    url: str = ""
    respond: Respond = lambda _: (404, {}, "")
    asked: list[Request] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


class _Handler(BaseHTTPRequestHandler):
    def _do(self) -> None:
        known: Server = self.server.known  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        known.asked.append(request)
        answer = known.respond(request)
        if answer is None:
            known.over.wait()
            return
        status, headers, text = answer
        self.send_response(status)
        for name, value in headers.items():
            for each in value.split("\n"):
                self.send_header(name, each)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = _do  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


def started(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    known = Server(f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}")
    server.known = known  # type: ignore[attr-defined]
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with in_a_thread(server, poll_interval=0.01):
        try:
            yield known
        finally:
            known.over.set()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from started()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    made, path = trustme.CA(), tmp_path_factory.mktemp("authority") / "ca.pem"
    made.cert_pem.write_to_path(str(path))
    return made, path


@pytest.fixture
def web(authority: tuple[trustme.CA, Path]) -> Iterator[Server]:
    """MWAA's web server, which speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("127.0.0.1").configure_cert(context)
    yield from started(context)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@dataclass
class Command:
    """`kpo-healer token …` with nothing of our environment that the libraries would heed."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        own = {"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(platforms.ROOT), "NO_PROXY": "*"}
        return own | self.env

    def __call__(self, *arguments: str) -> Outcome:
        command = [platforms.python(), "-m", "healer", "token", *arguments]
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=120, check=False, cwd=self.home
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def status(outcome: Outcome) -> dict[str, Any]:
    """What was printed, on standard output and nothing else."""
    assert outcome.code == 0, outcome
    assert outcome.err == ""
    printed = json.loads(outcome.out)
    assert printed["apiVersion"] == "client.authentication.k8s.io/v1"
    assert printed["kind"] == "ExecCredential"
    return dict(printed["status"])


def refused(outcome: Outcome) -> str:
    """The one sentence that says why there is no token."""
    assert (outcome.code, outcome.out) == (3, ""), outcome
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert not [secret for secret in SAID if secret in outcome.err]
    return outcome.err


# Google


@pytest.fixture
def google(command: Command, server: Server) -> Command:
    """On a machine of Google's, by its metadata server: Workload Identity looks the same to google-auth."""
    command.env |= {"GCE_METADATA_HOST": server.host, "GCE_METADATA_IP": server.host, "GCE_METADATA_ROOT": server.host}
    server.respond = metadata()
    return command


def metadata(token: Answer | None = None, *, silent: bool = False) -> Respond:
    flavor = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}

    def respond(request: Request) -> Answer | None:
        path = urlsplit(request.path).path
        if path.endswith("/token"):
            if silent:
                return None
            body = json.dumps({"access_token": SECRET, "expires_in": 3599, "token_type": "Bearer"})
            return token or (200, flavor, body)
        if path.endswith(("/universe/universe-domain", "/universe_domain")):
            return 200, flavor | {"Content-Type": "text/plain"}, "googleapis.com"
        if "service-accounts/default/" in path:
            return 200, flavor, json.dumps({"email": "healer@project.iam.gserviceaccount.com", "scopes": []})
        return 200, flavor | {"Content-Type": "text/plain"}, "project"

    return respond


def test_google_gives_a_token_and_its_end(google: Command, server: Server) -> None:
    printed = status(google("google"))
    assert printed["token"] == SECRET
    assert printed["expirationTimestamp"].endswith("Z")
    asked = next(request for request in server.asked if urlsplit(request.path).path.endswith("/token"))
    assert parse_qs(urlsplit(asked.path).query)["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]


def test_google_refuses(google: Command, server: Server) -> None:
    server.respond = metadata((403, {"Metadata-Flavor": "Google"}, f"no access for {SECRET[:4]}"))
    assert "Google gives no token: " in refused(google("google"))


def test_google_answers_with_what_is_no_token(google: Command, server: Server) -> None:
    server.respond = metadata((200, {"Metadata-Flavor": "Google", "Content-Type": "application/json"}, "{}"))
    said = refused(google("google"))
    assert "Google gives no token" in said


def test_google_is_silent(google: Command, server: Server) -> None:
    server.respond = metadata(silent=True)
    assert "Google gives no token within 25 s: can it be reached from here?" in refused(google("google"))


def test_google_without_any_credentials(command: Command) -> None:
    command.env |= {"NO_GCE_CHECK": "true"}
    assert "Google gives no token: Your default credentials were not found" in refused(command("google"))


def test_google_with_a_file_that_holds_none(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"type": "service_account", "private_key": SECRET}))
    command.env |= {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}
    assert "Google gives no token: " in refused(command("google"))


# AWS


def aws(command: Command, server: Server, authority: tuple[trustme.CA, Path]) -> Command:
    command.env |= {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_ENDPOINT_URL_MWAA": server.url,
        "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",
        "SSL_CERT_FILE": str(authority[1]),
    }
    return command


@pytest.fixture
def mwaa(command: Command, server: Server, web: Server, authority: tuple[trustme.CA, Path]) -> Callable[[], Outcome]:
    server.respond = lambda request: web_token(request, web)
    prepared = aws(command, server, authority)
    return lambda: prepared("mwaa", "--environment", "prod", "--region", "eu-central-1")


def web_token(request: Request, web: Server) -> Answer:
    if request.path == "/webtoken/prod":
        return 200, {"Content-Type": "application/json"}, json.dumps({"WebServerHostname": web.host, "WebToken": WEB})
    return 404, {"x-amzn-errortype": "ResourceNotFoundException"}, json.dumps({"message": "no such environment"})


def airflow(version: int, cookies: str = "") -> Respond:
    """MWAA's login as Airflow 3 and as Airflow 2 have it."""
    path = "/pluginsv2/aws_mwaa/login" if version == 3 else "/aws_mwaa/login"
    given = cookies or (f"_token={TOKEN}; Path=/; Secure" if version == 3 else f"session={SESSION}; HttpOnly; Path=/")

    def respond(request: Request) -> Answer:
        if request.path != path or parse_qs(request.body) != {"token": [WEB]}:
            return 404, {}, "<html>"
        return 302, {"Location": "/home", "Set-Cookie": f"other=1; Path=/\n{given}"}, ""

    return respond


def test_mwaa_gives_the_token_of_airflow_3(mwaa: Callable[[], Outcome], server: Server, web: Server) -> None:
    web.respond = airflow(3)
    printed = status(mwaa())
    assert printed["token"] == TOKEN
    assert "expirationTimestamp" in printed
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/webtoken/prod")
    assert "/eu-central-1/airflow/aws4_request" in asked.headers["authorization"]
    assert [request.path for request in web.asked] == ["/pluginsv2/aws_mwaa/login"], "no redirect was followed"


def test_mwaa_gives_the_session_of_airflow_2(mwaa: Callable[[], Outcome], web: Server) -> None:
    web.respond = airflow(2)
    assert status(mwaa()) == {"cookie": f"session={SESSION}"}


def test_the_sessions_own_end_is_told(mwaa: Callable[[], Outcome], web: Server) -> None:
    web.respond = airflow(2, f"session={SESSION}; Expires=Fri, 01 Jan 2100 00:00:00 GMT; HttpOnly")
    assert status(mwaa())["expirationTimestamp"] == "2100-01-01T00:00:00Z"


AWS_REFUSALS: dict[str, tuple[Answer, str]] = {
    "access denied": (
        (403, {"x-amzn-errortype": "AccessDeniedException"}, json.dumps({"Message": "not authorized"})),
        "grant airflow:CreateWebLoginToken on arn:aws:airflow:REGION:ACCOUNT:role/prod/Viewer",
    ),
    "no environment": (
        (404, {"x-amzn-errortype": "ResourceNotFoundException"}, json.dumps({"message": "none"})),
        "(ResourceNotFoundException): check --environment and --region",
    ),
    "expired credentials": (
        (403, {"x-amzn-errortype": "ExpiredTokenException"}, json.dumps({"message": "it has expired"})),
        "(ExpiredTokenException): it has expired",
    ),
    "no token": ((200, {}, json.dumps({"WebServerHostname": "x"})), "names no web server or holds no token"),
    "another host": (
        (200, {}, json.dumps({"WebServerHostname": "x/../evil?", "WebToken": WEB})),
        "names no web server or holds no token",
    ),
}


@pytest.mark.parametrize("name", AWS_REFUSALS)
def test_aws_refuses(name: str, mwaa: Callable[[], Outcome], server: Server, web: Server) -> None:
    answer, says = AWS_REFUSALS[name]
    server.respond = lambda _: answer
    assert says in refused(mwaa())
    assert web.asked == []


def test_the_web_server_gives_no_cookie(mwaa: Callable[[], Outcome], web: Server) -> None:
    web.respond = lambda _: (200, {"Content-Type": "text/html"}, "<html>log in")
    assert "gives neither token nor session for the web login (HTTP 200, 200)" in refused(mwaa())


def test_the_web_server_is_not_trusted(mwaa: Callable[[], Outcome], command: Command) -> None:
    del command.env["SSL_CERT_FILE"]
    assert "can't be reached (SSLError): a private one is reached from its VPC only" in refused(mwaa())


def test_aws_is_silent(mwaa: Callable[[], Outcome], server: Server) -> None:
    server.respond = lambda _: None
    assert "AWS gives no token" in refused(mwaa())


def test_aws_without_credentials(mwaa: Callable[[], Outcome], command: Command) -> None:
    command.env |= {"AWS_EC2_METADATA_DISABLED": "true"}
    del command.env["AWS_ACCESS_KEY_ID"]
    assert "AWS gives no token: Unable to locate credentials" in refused(mwaa())


def test_aws_without_a_region(command: Command, server: Server, authority: tuple[trustme.CA, Path]) -> None:
    assert "You must specify a region" in refused(aws(command, server, authority)("mwaa", "--environment", "prod"))


def test_irsa(mwaa: Callable[[], Outcome], command: Command, server: Server, web: Server, tmp_path: Path) -> None:
    """An account of Kubernetes as a role of AWS: the projected token is traded at STS."""
    web.respond = airflow(3)
    identity = tmp_path / "identity"
    identity.write_text("projected-t0ken")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del command.env[name]
    role = "arn:aws:iam::123456789012:role/kpo-healer"
    command.env |= {
        "AWS_ROLE_ARN": role,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(identity),
        "AWS_ENDPOINT_URL_STS": server.url,
    }

    def respond(request: Request) -> Answer:
        if request.path != "/":
            return web_token(request, web)
        form = parse_qs(request.body)
        assert (form["RoleArn"], form["WebIdentityToken"]) == ([role], ["projected-t0ken"])
        keys = f"<AccessKeyId>AKIDIRSA</AccessKeyId><SecretAccessKey>{KEY}</SecretAccessKey>"
        keys += "<SessionToken>s</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>"
        text = (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<AssumeRoleWithWebIdentityResult><Credentials>{keys}</Credentials></AssumeRoleWithWebIdentityResult>"
            "</AssumeRoleWithWebIdentityResponse>"
        )
        return 200, {"Content-Type": "text/xml"}, text

    server.respond = respond
    assert status(mwaa())["token"] == TOKEN
    assert "AKIDIRSA" in server.asked[-1].headers["authorization"]


def test_eks_pod_identity(mwaa: Callable[[], Outcome], command: Command, server: Server, web: Server) -> None:
    web.respond = airflow(3)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del command.env[name]
    command.env |= {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "projected-t0ken",
    }

    def respond(request: Request) -> Answer:
        if request.path != "/v1/credentials":
            return web_token(request, web)
        keys = {"AccessKeyId": "AKIDPOD", "SecretAccessKey": KEY, "Token": "s", "Expiration": "2100-01-01T00:00:00Z"}
        return 200, {"Content-Type": "application/json"}, json.dumps(keys)

    server.respond = respond
    assert status(mwaa())["token"] == TOKEN
    assert "AKIDPOD" in server.asked[-1].headers["authorization"]


# Without the libraries, and as the healer runs it


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("google",), "google-auth is not installed: pip install 'kpo-healer[google]'"),
        (("mwaa", "--environment", "prod"), "botocore is not installed: pip install 'kpo-healer[aws]'"),
    ],
)
def test_without_the_library(arguments: tuple[str, ...], says: str, command: Command, tmp_path: Path) -> None:
    blocked = (
        "import sys; sys.modules['google'] = sys.modules['botocore.config'] = None; from healer.cli import main; main()"
    )
    done = subprocess.run(
        [platforms.python(), "-c", blocked, "token", *arguments],
        env=command.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert says in refused(Outcome(done.returncode, done.stdout, done.stderr))


def test_exec_understands_what_is_printed(
    mwaa: Callable[[], Outcome], command: Command, web: Server, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.respond = airflow(3)
    for name, value in command.environment().items():
        monkeypatch.setenv(name, value)
    words = [str(platforms.python()), "-m", "healer", "token", "mwaa", "--environment", "prod"]
    got = run([*words, "--region", "eu-central-1"], 60.0, lambda: 0.0)
    assert got == ExecToken(TOKEN, got.expires)
    assert got.expires is not None
    web.respond = airflow(2)
    assert run([*words, "--region", "eu-central-1"], 60.0).is_cookie
    server.respond = lambda _: AWS_REFUSALS["access denied"][0]
    with pytest.raises(NoAnswerError, match=r"ended with 3: error: AWS refuses CreateWebLoginToken") as caught:
        run([*words, "--region", "eu-central-1"], 60.0)
    assert not [secret for secret in SAID if secret in str(caught.value)]
