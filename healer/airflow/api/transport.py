"""One HTTP exchange with Airflow's API server, and in plain words why there was none.

The generated client is the transport: its URLs, TLS, proxies and pool. Its models are not used: they reject a whole
page for one unknown state. Its defaults are not either: no timeout, and GETs repeated and redirects followed unseen.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import urllib3
from msgspec import Struct
from pydantic.alias_generators import to_camel
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)

from healer.airflow.api.credential import Credential
from healer.clock import boottime
from healer.config import AirflowConfig
from healer.config.secret_files import read_headers
from healer.errors import FailureScope, NoAnswerError

if TYPE_CHECKING:
    from healer.airflow.api.client_import import ApiClient

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection."""

MAX_BODY = 64 << 20
"""Bytes of an answer beyond which it is not read on: about 20,000 task instances."""

CONCURRENCY = 4
"""Requests at a time. More gain nothing: one API worker answers 120 to 150 a second, whatever the concurrency."""

_PIECE = 1 << 16

TELLING = ("server", "www-authenticate", "x-goog-iap-generated-response", "cf-ray", "x-amzn-errortype")
"""Response headers by which one knows who has answered: Airflow, or a gate or proxy in front of it."""


class Call(Struct, frozen=True):
    """One request as metrics count it. `code` is the HTTP status, or timeout, refused, reset, tls or unreadable.

    `authenticated`: Airflow itself has answered what it tells only after a login.
    """

    call: str
    code: str
    seconds: float
    bytes: int = 0
    rows: int = 0
    authenticated: bool = False


ObserveCall = Callable[[Call], None]


def ignore(call: Call) -> None:
    """Observe nothing."""


class AirflowRequest(Struct, frozen=True):
    """A question to the API server. `ids` fill the path's `{names}`, each quoted whole; `call` is for metrics."""

    call: str
    path: str
    ids: Mapping[str, str | int] = {}
    query: tuple[tuple[str, str | int], ...] = ()
    body: Mapping[str, object] | None = None
    method: str = "GET"
    timeout: float = math.inf
    """Seconds to wait for the answer, where that is less than the configured timeout."""
    form: Mapping[str, str] | None = None
    """What is sent as a browser sends a form, in the place of `body`."""


class RawResponse(Struct, frozen=True):
    """An answer before anyone has tried to understand it.

    `date` is the server's clock (seconds since the epoch), `retry_after` how long it wants to be left alone (seconds).
    `headers` are those that tell who has answered, by their names in lower case. `type` is the content type as it came,
    `cookies` are those that it sets. `age` is for how long a cache on the way has kept it (seconds).
    """

    status: int
    body: bytes
    sent: float
    json: bool
    location: str
    date: float | None
    retry_after: float | None = None
    headers: Mapping[str, str] = {}
    type: str = ""
    cookies: Mapping[str, str] = {}
    age: float = 0.0

    def __repr__(self) -> str:
        """Show nothing of body and cookies: they may hold a token, or the kubeconfig of a trigger."""
        return f"RawResponse({self.status}, {len(self.body)} bytes)"


class AirflowTransport:
    """Sends requests to one API server. Safe to use from several threads."""

    def __init__(self, config: AirflowConfig) -> None:
        self.url = config.url.rstrip("/")
        self._timeout = config.timeout
        self._config = config
        self._lock = threading.Lock()
        self._made: ApiClient | None = None

    def send(self, request: AirflowRequest, credential: Credential | None) -> RawResponse:
        """Send it once and return whatever came back. Raises NoAnswerError if nothing complete did."""
        sent = boottime()
        timeout = min(self._timeout, request.timeout)
        try:
            response = self._start(request, credential, timeout)
            kind = response.headers.get("Content-Type", "")
            date = _date(response.headers.get("Date"))
            return RawResponse(
                status=response.status,
                body=self._read(response, sent, timeout),
                sent=sent,
                json="json" in kind.lower(),
                location=response.headers.get("Location", ""),
                date=date,
                retry_after=_delay(response.headers.get("Retry-After"), date),
                headers={name: value for name in TELLING if (value := response.headers.get(name))},
                type=kind,
                cookies=_cookies(response.headers.getlist("Set-Cookie")),
                age=_age(response.headers.get("Age")),
            )
        except (LocationValueError, urllib3.exceptions.ProxySchemeUnknown):
            raise NoAnswerError(
                f"{self.url} can't be asked: HTTP_PROXY, HTTPS_PROXY or ALL_PROXY holds no URL of a proxy; write it "
                "like http://proxy:3128, special characters of a password as %XX",
                FailureScope.SERVER,
                "refused",
                "network",
            ) from None
        except (HTTPError, OSError) as error:
            raise self._to_error(error, timeout) from None
        except ValueError:
            # http.client's words for a forbidden character quote the header, and so the token.
            raise NoAnswerError(
                f"{self.url} can't be asked: the URL, the token or the cookie holds forbidden characters", kind="token"
            ) from None

    def _start(
        self, request: AirflowRequest, credential: Credential | None, timeout: float
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "Cache-Control": "no-cache"}
        if credential is not None:
            headers[credential.header] = credential.value
        for name, value in self._further_headers().items():
            # A gateway's cookie goes with Airflow's: a request has one header for all.
            known = headers.get("Cookie") if name.lower() == "cookie" else None
            headers["Cookie" if known else name] = f"{known}; {value}" if known else value
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        from healer.airflow.api.client_import import OpenApiException

        api = self._api()
        serialized = api.param_serialize(
            request.method,
            request.path,
            path_params=dict(request.ids),
            query_params=list(request.query),
            header_params=headers,
            body=request.body,
            post_params=list((request.form or {}).items()),
        )
        try:
            answer = api.call_api(*serialized, _request_timeout=(CONNECT_TIMEOUT, timeout))
        except OpenApiException as error:  # the client's way to say that TLS failed
            raise urllib3.exceptions.SSLError(str(error)) from error
        response: urllib3.BaseHTTPResponse = answer.response
        return response

    @property
    def _files(self) -> str:
        named = [key for key in ("ca_file", "cert_file", "key_file") if getattr(self._config, key)]
        return " or ".join(to_camel(key) for key in named) or "a file that the environment names"

    def _further_headers(self) -> Mapping[str, str]:
        """Return what a gateway in front wants, read anew for each request. Raises NoAnswerError."""
        if self._config.headers_file is None:
            return {}
        try:
            return read_headers(self._config.headers_file)
        except ValueError as error:
            raise NoAnswerError(f"headersFile: {error}", FailureScope.SERVER, kind="gate") from None

    def _api(self) -> ApiClient:
        """Return the generated client, made for the first request: its import is not for free."""
        with self._lock:
            if self._made is None:
                self._made = self._new_client()
            return self._made

    def _new_client(self) -> ApiClient:
        from healer.airflow.api.client_import import ApiClient, Configuration

        configuration = Configuration(
            host=self.url,
            # No retries, and no redirects either: a login page is no answer.
            retries=False,
            ssl_ca_cert=str(self._config.ca_file) if self._config.ca_file else None,
            connection_pool_maxsize=CONCURRENCY,
        )
        # Read for each new connection, so that a renewed certificate is used without a restart.
        configuration.cert_file = str(self._config.cert_file) if self._config.cert_file else None
        configuration.key_file = str(self._config.key_file) if self._config.key_file else None
        return ApiClient(configuration)

    def _read(self, response: urllib3.BaseHTTPResponse, sent: float, timeout: float) -> bytes:
        try:
            body = self._pieces(response, sent, timeout)
        except BaseException:
            # What is left of the body would be taken for the next answer.
            response.close()
            raise
        response.release_conn()
        return body

    def _pieces(self, response: urllib3.BaseHTTPResponse, sent: float, timeout: float) -> bytes:
        pieces, size = [], 0
        while piece := response.read1(_PIECE, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY:
                raise NoAnswerError(
                    f"{self.url} answered with more than {MAX_BODY >> 20} MB: is this Airflow's API server?"
                )
            if boottime() > sent + CONNECT_TIMEOUT + timeout:
                raise self._too_slow(timeout)
        return b"".join(pieces)

    def _too_slow(self, timeout: float) -> NoAnswerError:
        why = f"{self.url} gave no full answer within {timeout:g} s: is it overloaded? (timeout sets the limit)"
        return NoAnswerError(why, FailureScope.SLOW, "timeout", "network")

    def _to_error(self, error: Exception, timeout: float) -> NoAnswerError:
        """Return the failure in plain words. Order matters: the first class that fits."""
        if isinstance(error, ReadTimeoutError):
            return self._too_slow(timeout)
        if isinstance(error, NameResolutionError):
            return self._unreachable(f"{self.url}: this host name is not known: check url", "refused")
        if isinstance(error, urllib3.exceptions.ProxyError):
            return self._unreachable(
                f"{self.url} can't be reached through the proxy that HTTP_PROXY or HTTPS_PROXY names: check that one, "
                "or name this host in NO_PROXY",
                "refused",
            )
        if isinstance(error, NewConnectionError | ConnectionRefusedError):
            return self._unreachable(
                f"{self.url} refuses the connection: check url, and whether the API server runs", "refused"
            )
        if isinstance(error, ConnectTimeoutError):
            return self._unreachable(
                f"{self.url} accepts no connection within {CONNECT_TIMEOUT:g} s: check the address and the network",
                "timeout",
            )
        if isinstance(error, urllib3.exceptions.SSLError):
            return NoAnswerError(
                f"{self.url}: no trusted TLS connection ({_tls(error, self._files)})", FailureScope.SERVER, "tls", "tls"
            )
        if isinstance(error, DecodeError):
            return NoAnswerError(f"{self.url} sent a damaged answer: its compression can't be undone")
        https = "" if self.url.startswith("https:") else " Does it speak https: only?"
        why = f"{self.url} broke the connection off: is it restarting?{https}"
        return NoAnswerError(why, FailureScope.CALL, "reset", "network")

    @staticmethod
    def _unreachable(why: str, code: str) -> NoAnswerError:
        return NoAnswerError(why, FailureScope.SERVER, code, "network")


def _cookies(lines: Iterable[str]) -> dict[str, str]:
    """Return the cookies that an answer sets; one that can't be read is none."""
    pairs = (line.partition(";")[0].partition("=") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip() and value.strip()}


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None


def _age(text: str | None) -> float:
    """Return the seconds of an Age header, 0 where there is none that can be read."""
    try:
        return float(text) if text else 0.0
    except ValueError:
        return 0.0


def _delay(text: str | None, now: float | None) -> float | None:
    """Return the seconds of a Retry-After header; a date there is compared with the server's own clock."""
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        until = _date(text)
        return None if until is None or now is None else max(0.0, until - now)


_ALERTS = (
    ("certificate required", "it wants a certificate of ours: certFile and keyFile name one"),
    ("certificate expired", "it says that our certificate has expired: put a new one into certFile"),
    ("unknown ca", "it does not know the CA of our certificate: put one into certFile that it accepts"),
    ("bad certificate", "it does not accept our certificate: put one into certFile that it accepts"),
    ("unsupported certificate", "it does not accept our certificate: it must be one for clients"),
    ("certificate unknown", "it does not accept our certificate: put one into certFile that it accepts"),
)
"""What a server says of a client's certificate, as OpenSSL calls it."""


def _tls(error: Exception, named: str) -> str:
    """Say why TLS failed; `named` are the keys that name a file."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return f"its certificate is not accepted: {reason or 'unknown issuer'}; caFile names the CAs to trust"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "it does not speak TLS; should the URL begin with http:?"
    told = next((says for alert, says in _ALERTS if f"alert {alert}" in text.lower().replace("_", " ")), None)
    if told:
        return told
    if "KEY_VALUES_MISMATCH" in text:
        return "the key in keyFile does not belong to the certificate in certFile"
    if "private key is encrypted" in text:
        return "the key in keyFile has a passphrase: it must have none"
    if "No such file" in text or "PEM" in text or "no certificate or crl found" in text:
        return f"{named} is not a readable PEM file"
    mine = "another certificate of ours than certFile names" if "certFile" in named else "a certificate of ours"
    return f"the handshake failed; does it want {mine}? certFile and keyFile name one"
