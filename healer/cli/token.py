"""Tokens of platforms whose Airflow knows no password, by the platforms' own libraries; for `exec` in the config.

What is printed is an ExecCredential, as kubectl knows it; nothing else ever shows a credential. Airflow 2 on Amazon
MWAA has sessions and no tokens: their cookie stands in `status.cookie`, which is ours.
"""

from __future__ import annotations

import json
import re
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import FrameType
from typing import Any
from urllib.parse import urlencode

import urllib3
from msgspec import Struct

from healer.airflow.api.token_life import expiry
from healer.errors import TokenError
from healer.model import rfc3339_utc
from healer.redaction import first_line

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
"""What Cloud Composer wants of an access token [Composer's docs, "Access the Airflow REST API"]."""

LIMIT = 25.0
"""Seconds within which a token must be had: less than exec.timeout's default, so that the reason is told."""

LOGINS = ("/pluginsv2/aws_mwaa/login", "/aws_mwaa/login")
"""Where MWAA takes a web token: on Airflow 3, and on Airflow 2."""

JWT_COOKIE, SESSION_COOKIE = "_token", "session"
"""The cookies that this login sets: Airflow 3's token, sent as a Bearer, and Airflow 2's session."""

_HOST = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9.]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?", re.ASCII)
_ATTRIBUTE = re.compile(r";\s*(expires|max-age)\s*=\s*([^;]+)", re.IGNORECASE)

Post = Callable[[str, bytes], urllib3.BaseHTTPResponse]


class Printed(Struct, frozen=True):
    """A credential to be printed. `ends` is None where the platform does not say."""

    ends: datetime | None
    token: str | None = None
    cookie: str | None = None

    def __str__(self) -> str:
        """The ExecCredential, in one line."""
        status = {
            "token": self.token,
            "cookie": self.cookie,
            "expirationTimestamp": None if self.ends is None else rfc3339_utc(self.ends),
        }
        return json.dumps(
            {
                "apiVersion": "client.authentication.k8s.io/v1",
                "kind": "ExecCredential",
                "status": {key: value for key, value in status.items() if value is not None},
            }
        )

    def __repr__(self) -> str:
        """Never show it."""
        return f"Printed(ends={self.ends})"


def google() -> Printed:
    """Return an access token of the Application Default Credentials. Raises TokenError."""
    try:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request
    except ImportError:
        raise _lacks("google", "google-auth") from None
    with _within(LIMIT, "Google"):
        try:
            credentials, _ = google.auth.default(scopes=[SCOPE])
            credentials.refresh(Request())
        except (GoogleAuthError, OSError, ValueError) as error:
            raise TokenError(f"Google gives no token: {first_line(error)}") from None
        except (KeyError, TypeError):  # what google-auth makes of an answer without its fields
            raise TokenError("Google gives no token: its answer can't be read") from None
    if not isinstance(credentials.token, str) or not credentials.token:
        raise TokenError("Google gives no token: the Application Default Credentials have none")
    ends = credentials.expiry  # UTC without a time zone
    return Printed(None if ends is None else ends.replace(tzinfo=UTC), token=credentials.token)


def mwaa(environment: str, region: str | None) -> Printed:
    """Return Airflow 3's token or Airflow 2's session of an MWAA environment. Raises TokenError."""
    with _within(LIMIT, "AWS"):
        host, token = _web_login_token(environment, region)
        return _exchanged(host, token, _post)


def _web_login_token(environment: str, region: str | None) -> tuple[str, str]:
    """Return the web server's host and a token that is good for a minute."""
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import get_session
    except ImportError:
        raise _lacks("aws", "botocore") from None
    patience = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    try:
        client = get_session().create_client("mwaa", region_name=region, config=patience)
        answer = client.create_web_login_token(Name=environment)
    except ClientError as error:
        raise TokenError(_aws_refusal(environment, error.response.get("Error", {}))) from None
    except (BotoCoreError, ValueError) as error:
        raise TokenError(f"AWS gives no token: {first_line(error)}") from None
    host, token = answer.get("WebServerHostname", ""), answer.get("WebToken", "")
    if not (isinstance(host, str) and _HOST.fullmatch(host) and isinstance(token, str) and token):
        raise TokenError("AWS gives no token: its answer names no web server or holds no token")
    return host, token


def _aws_refusal(environment: str, error: dict[str, Any]) -> str:
    code, said = str(error.get("Code", "an error")), first_line(error.get("Message", ""))
    why = f"AWS refuses CreateWebLoginToken for environment {environment} ({code})"
    if code == "AccessDeniedException":
        return (
            f"{why}: grant airflow:CreateWebLoginToken on arn:aws:airflow:REGION:ACCOUNT:role/{environment}/Viewer to "
            "the role that this Pod has"
        )
    if code == "ResourceNotFoundException":
        return f"{why}: check --environment and --region"
    return f"{why}: {said}" if said else why


def _exchanged(host: str, token: str, post: Post) -> Printed:
    """Trade the web token for what the API takes."""
    statuses = []
    for path in LOGINS:
        try:
            response = post(f"https://{host}{path}", urlencode({"token": token}).encode())
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TokenError(
                f"MWAA's web server at {host} can't be reached ({type(error).__name__}): a private one is reached from "
                "its VPC only"
            ) from None
        cookies = {line.partition("=")[0].strip(): line for line in response.headers.getlist("Set-Cookie")}
        if response.status < 400 and (found := _found(cookies)):
            return found
        statuses.append(str(response.status))
    raise TokenError(
        f"MWAA's web server at {host} gives neither token nor session for the web login (HTTP {', '.join(statuses)}): "
        "is it Airflow 2.10, 2.11 or 3?"
    )


def _found(cookies: dict[str, str]) -> Printed | None:
    for name in (JWT_COOKIE, SESSION_COOKIE):
        value = cookies.get(name, "").partition(";")[0].partition("=")[2].strip().strip('"')
        if value and name == JWT_COOKIE:
            end = expiry(value)
            return Printed(None if end is None else datetime.fromtimestamp(end, UTC), token=value)
        if value:
            return Printed(_cookies_end(cookies[name]), cookie=f"{name}={value}")
    return None


def _cookies_end(line: str) -> datetime | None:
    """Return when a cookie ends by its own attributes; Max-Age wins, as RFC 6265 says."""
    attributes = {name.lower(): value.strip() for name, value in _ATTRIBUTE.findall(line)}
    try:
        if "max-age" in attributes:
            return datetime.now(UTC) + timedelta(seconds=int(attributes["max-age"]))
        return parsedate_to_datetime(attributes["expires"]).astimezone(UTC) if "expires" in attributes else None
    except (ValueError, OverflowError):
        return None


def _post(url: str, body: bytes) -> urllib3.BaseHTTPResponse:
    # The default context heeds SSL_CERT_FILE and SSL_CERT_DIR.
    with urllib3.PoolManager(ssl_context=ssl.create_default_context()) as pool:
        return pool.request(
            "POST",
            url,
            body=body,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=10),
        )


@contextmanager
def _within(seconds: float, whom: str) -> Iterator[None]:
    """Raise TokenError when it takes longer: the libraries try again and again where nothing answers."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise TokenError(f"{whom} gives no token within {seconds:g} s: can it be reached from here?")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _lacks(extra: str, library: str) -> TokenError:
    return TokenError(
        f"{library} is not installed: pip install 'kpo-healer[{extra}]', or build the image with "
        f"--build-arg EXTRA={extra}"
    )
