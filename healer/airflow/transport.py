"""One HTTP exchange with Airflow's API server, and in plain words why there was none.

The generated client is the transport: its URLs, TLS, proxies and pool. Its models are not used: they reject a whole
page for one unknown state. Its defaults are not either: no timeout, and GETs repeated and redirects followed unseen.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import urllib3
from msgspec import Struct
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)

from healer.clock import steady

if TYPE_CHECKING:
    from healer.airflow.generated import ApiClient

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection."""

MAX_BODY = 64 << 20
"""Bytes of an answer beyond which it is not read on: about 20,000 task instances."""

CONCURRENCY = 4
"""Requests at a time. More gain nothing: one API worker answers 120 to 150 a second, whatever the concurrency."""

_PIECE = 1 << 16


class Call(Struct, frozen=True):
    """One request as metrics count it. `code` is the HTTP status, or timeout, refused, reset, tls or unreadable."""

    call: str
    code: str
    seconds: float
    bytes: int = 0
    rows: int = 0


Observe = Callable[[Call], None]


def ignore(call: Call) -> None:
    """Observe nothing."""


class Reach(Enum):
    """What a failure spoils: only this question, this question and much time, or every question."""

    CALL = 1
    SLOW = 2
    SERVER = 3


class NoAnswerError(Exception):
    """Airflow gave no answer one can use. `str()` is one sentence that says what to do."""

    def __init__(self, why: str, reach: Reach = Reach.CALL, code: str = "unreadable") -> None:
        super().__init__(why)
        self.reach = reach
        self.code = code


class AirflowRefused(NoAnswerError):  # noqa: N818 - the name that callers know
    """The login was refused: no question will be answered before it is set right."""

    def __init__(self, why: str) -> None:
        super().__init__(why, Reach.SERVER, "401")


class Request(Struct, frozen=True):
    """A question to the API server. `ids` fill the path's `{names}`, each quoted whole; `call` is for metrics."""

    call: str
    path: str
    ids: Mapping[str, str | int] = {}
    query: tuple[tuple[str, str | int], ...] = ()
    body: Mapping[str, object] | None = None
    method: str = "GET"
    patience: float = math.inf
    """Seconds to wait for the answer, where that is less than the configured timeout."""


class Raw(Struct, frozen=True):
    """An answer before anyone has tried to understand it.

    `date` is the server's clock (seconds since the epoch), `retry_after` how long it wants to be left alone (seconds).
    """

    status: int
    body: bytes
    sent: float
    json: bool
    location: str
    date: float | None
    retry_after: float | None = None


class Transport:
    """Sends requests to one API server. Safe to use from several threads."""

    def __init__(self, url: str, ca_file: Path | None, timeout: float) -> None:
        """`timeout` is how long one answer may take, in seconds."""
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._made: ApiClient | None = None

    def send(self, request: Request, token: str | None) -> Raw:
        """Send it once and return whatever came back. Raises NoAnswerError if nothing complete did."""
        sent = steady()
        patience = min(self._timeout, request.patience)
        try:
            response = self._start(request, token, patience)
            date = _date(response.headers.get("Date"))
            return Raw(
                status=response.status,
                body=self._read(response, sent, patience),
                sent=sent,
                json="json" in response.headers.get("Content-Type", "").lower(),
                location=response.headers.get("Location", ""),
                date=date,
                retry_after=_delay(response.headers.get("Retry-After"), date),
            )
        except (HTTPError, OSError) as error:
            raise self._explained(error, patience) from None
        except ValueError:
            # http.client's words for a forbidden character quote the header, and so the token.
            raise NoAnswerError(f"{self.url} can't be asked: the URL or the token holds forbidden characters") from None

    def _start(self, request: Request, token: str | None, patience: float) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        from healer.airflow.generated import OpenApiException

        api = self._api()
        serialized = api.param_serialize(
            request.method,
            request.path,
            path_params=dict(request.ids),
            query_params=list(request.query),
            header_params=headers,
            body=request.body,
        )
        try:
            answer = api.call_api(*serialized, _request_timeout=(CONNECT_TIMEOUT, patience))
        except OpenApiException as error:  # the client's way to say that TLS failed
            raise urllib3.exceptions.SSLError(str(error)) from error
        response: urllib3.BaseHTTPResponse = answer.response
        return response

    def _api(self) -> ApiClient:
        """Return the generated client, made for the first request: its import is not for free."""
        with self._lock:
            if self._made is None:
                self._made = self._new_client()
            return self._made

    def _new_client(self) -> ApiClient:
        from healer.airflow.generated import ApiClient, Configuration

        configuration = Configuration(
            host=self.url,
            # No retries, and no redirects either: a login page is no answer.
            retries=False,
            ssl_ca_cert=str(self._ca_file) if self._ca_file else None,
            connection_pool_maxsize=CONCURRENCY,
        )
        return ApiClient(configuration)

    def _read(self, response: urllib3.BaseHTTPResponse, sent: float, patience: float) -> bytes:
        try:
            body = self._pieces(response, sent, patience)
        except BaseException:
            # What is left of the body would be taken for the next answer.
            response.close()
            raise
        response.release_conn()
        return body

    def _pieces(self, response: urllib3.BaseHTTPResponse, sent: float, patience: float) -> bytes:
        pieces, size = [], 0
        while piece := response.read1(_PIECE, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY:
                raise NoAnswerError(
                    f"{self.url} answered with more than {MAX_BODY >> 20} MB: is this Airflow's API server?"
                )
            if steady() > sent + CONNECT_TIMEOUT + patience:
                raise self._too_slow(patience)
        return b"".join(pieces)

    def _too_slow(self, patience: float) -> NoAnswerError:
        why = f"{self.url} gave no full answer within {patience:g} s: is it overloaded? (timeout sets the limit)"
        return NoAnswerError(why, Reach.SLOW, "timeout")

    def _explained(self, error: Exception, patience: float) -> NoAnswerError:
        """Return the failure in plain words. Order matters: the first class that fits."""
        if isinstance(error, ReadTimeoutError):
            return self._too_slow(patience)
        if isinstance(error, NameResolutionError):
            return NoAnswerError(f"{self.url}: this host name is not known: check url", Reach.SERVER, "refused")
        if isinstance(error, NewConnectionError | ConnectionRefusedError | urllib3.exceptions.ProxyError):
            return NoAnswerError(
                f"{self.url} refuses the connection: check url, and whether the API server runs",
                Reach.SERVER,
                "refused",
            )
        if isinstance(error, ConnectTimeoutError):
            return NoAnswerError(
                f"{self.url} accepts no connection within {CONNECT_TIMEOUT:g} s: check the address and the network",
                Reach.SERVER,
                "timeout",
            )
        if isinstance(error, urllib3.exceptions.SSLError):
            return NoAnswerError(f"{self.url}: no trusted TLS connection ({_tls(error)})", Reach.SERVER, "tls")
        if isinstance(error, DecodeError):
            return NoAnswerError(f"{self.url} sent a damaged answer: its compression can't be undone")
        return NoAnswerError(f"{self.url} broke the connection off: is it restarting?", Reach.CALL, "reset")


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None


def _delay(text: str | None, now: float | None) -> float | None:
    """Return the seconds of a Retry-After header; a date there is compared with the server's own clock."""
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        until = _date(text)
        return None if until is None or now is None else max(0.0, until - now)


def _tls(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return f"its certificate is not accepted: {reason or 'unknown issuer'}; caFile names the CAs to trust"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "it does not speak TLS; should the URL begin with http:?"
    if "No such file" in text or "PEM" in text or "no certificate or crl found" in text:
        return "caFile is not a readable PEM file"
    return "the handshake failed"
