"""One HTTP request to the API server: sent once, with a timeout, its answer counted and its clock read.

The `kubernetes` client does configuration, authentication, TLS and connections; its models are not used
(`CoreV1Api` alone would cost 84 MB of memory).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

import urllib3
from msgspec import Struct
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.exceptions import TimeoutError as TransportTimeout

from healer.clock import boottime
from healer.errors import ConnectError, UnreachableError
from healer.redaction import first_line, scrubbed

ObserveRequest: TypeAlias = Callable[[str, str], None]
"""Told of each request: its verb as RBAC names it, and the status code, `timeout` or `unreachable`."""

_last_check: ContextVar[Callable[[], None] | None] = ContextVar("last_check", default=None)


class _CheckedConnection(HTTPConnection):
    """A connection that asks once more after it is established and before the first byte of the request is sent.

    Connecting takes seconds when the server is busy, and evidence gets old meanwhile.
    """

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        check = _last_check.get()
        if check is not None:
            check()
        super().request(*args, **kwargs)


class _CheckedTlsConnection(_CheckedConnection, HTTPSConnection):
    pass


class _CheckedPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _CheckedConnection


class _CheckedTlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _CheckedTlsConnection


class KubeReply(Struct, frozen=True):
    """An answer: any status, also a refusal."""

    status: int
    body: bytes
    retry_after: float | None = None

    @property
    def message(self) -> str:
        """What the server says in its `Status`, or the beginning of whatever it sent."""
        try:
            status = json.loads(self.body)
        except (ValueError, RecursionError):
            return self.body[:200].decode("utf-8", "replace").strip()
        return str(status.get("message", "")) if isinstance(status, dict) else ""


class KubeRequest(Struct, frozen=True):
    """A request. `verb` is RBAC's word for it, `timeout` counts for connecting and for each wait, in seconds."""

    verb: str
    method: str
    path: tuple[str, ...]
    query: Mapping[str, str] = {}
    body: Any = None
    content_type: str = "application/json"
    timeout: float = 10.0

    @property
    def resource(self) -> str:
        """The path and its query, quoted."""
        path = "/".join(quote(part, safe="") for part in self.path)
        return f"/{path}?{urlencode(self.query)}" if self.query else f"/{path}"


class KubeTransport:
    """Sends requests with the credentials of a configuration, which is loaded anew after a 401."""

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        observe: ObserveRequest = lambda _verb, _code: None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """Take `load`, which returns a `kubernetes.client.Configuration`; what it raises passes through."""
        self._load = load
        self._observe = observe
        self._clock = clock
        self._server_time: tuple[float, float] | None = None
        self._client = self._new_client()

    @property
    def server(self) -> str:
        """The address of the API server, for messages."""
        return str(self._client.configuration.host)

    def now(self) -> float | None:
        """Return the API server's time in seconds since the epoch; None before its first answer.

        It is the last `Date` header plus what went by on our monotonic clock. `Date` has whole seconds and the answer
        was on its way, so this is a little early: Pods look younger than they are, never older.
        """
        last = self._server_time
        return None if last is None else last[0] + self._clock() - last[1]

    def send(self, request: KubeRequest, *, last_check: Callable[[], None] | None = None) -> KubeReply:
        """Send the request, once, and return what the server answers.

        Args:
            request: what to send.
            last_check: called as the last thing before the first byte leaves, on a connection that is established; what
                it raises passes through, and nothing was sent.

        Raises:
            Unreachable: there was no answer.
            ConnectError: our credentials ended and can't be renewed; nothing was sent.
        """
        try:
            with _checking(last_check):
                response = self._call(request)
            reply = self._read(request, response)
        except (HTTPError, OSError) as error:
            raise self._unreachable(request, error) from error
        except ValueError:
            # http.client's words for a forbidden character quote the header, and so the token.
            raise ConnectError(
                "The credentials for the Kubernetes API server hold characters that no header may have: write the "
                "token anew, in one line."
            ) from None
        self._observe(request.verb, str(reply.status))
        if reply.status == 401:
            self._renew()
        return reply

    def close(self) -> None:
        """Close idle connections; one in use is closed when its answer is read."""
        self._client.close()

    def _call(self, request: KubeRequest) -> urllib3.BaseHTTPResponse:
        """Return the response with its body still unread."""
        from kubernetes.client.exceptions import ApiException

        client = self._client
        method, url, headers, body, _ = _signed(client, request)
        try:
            answer = client.call_api(method, url, headers, body, _request_timeout=request.timeout)
        except ApiException as error:  # the client's way to say that TLS failed
            raise HTTPError(error.reason) from error
        response: urllib3.BaseHTTPResponse = answer.response
        return response

    def _read(self, request: KubeRequest, response: urllib3.BaseHTTPResponse) -> KubeReply:
        self._read_clock(response.headers.get("Date"))
        try:
            body = response.data
        except (HTTPError, OSError):
            # The status line of a DELETE says all; whether the rest arrives changes nothing.
            response.close()
            if request.method != "DELETE":
                raise
            body = b""
        return KubeReply(response.status, body, _delay(response.headers.get("Retry-After")))

    def _read_clock(self, date: str | None) -> None:
        try:
            seconds = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        self._server_time = (seconds, self._clock())

    def _unreachable(self, request: KubeRequest, error: Exception) -> UnreachableError:
        timeout = isinstance(error, TransportTimeout) and not isinstance(error, urllib3.exceptions.NewConnectionError)
        self._observe(request.verb, "timeout" if timeout else "unreachable")
        if timeout:
            return UnreachableError(
                f"The Kubernetes API server {self.server} did not answer within {request.timeout:g} s."
            )
        broken = isinstance(error, urllib3.exceptions.ProtocolError)
        return UnreachableError(
            f"The Kubernetes API server {self.server} can't be reached: {_reason(error)}.", broken=broken
        )

    def _renew(self) -> None:
        """Read the credentials again, for the next request: a kubeconfig's token file is otherwise read but once."""
        try:
            old, self._client = self._client, self._new_client()
        except ConnectError:  # being rewritten, perhaps; the 401 says enough, and the next one tries again
            return
        old.close()

    def _new_client(self) -> Any:
        from kubernetes.client.api_client import ApiClient

        try:
            client = ApiClient(self._load())
        except LocationValueError:  # its words quote the proxy's URL, login included
            raise ConnectError(
                "The Kubernetes API server can't be asked: HTTPS_PROXY, or proxy-url of the kubeconfig, holds no URL "
                "of a proxy: write it like http://proxy:3128."
            ) from None
        client.user_agent = "kpo-healer"
        client.rest_client.pool_manager.pool_classes_by_scheme = {"http": _CheckedPool, "https": _CheckedTlsPool}
        return client


def _signed(client: Any, request: KubeRequest) -> Any:
    """Return the request in the client's own form, with our credentials, which may be renewed for it."""
    from kubernetes.config import ConfigException

    headers = {"Accept": "application/json", "Content-Type": request.content_type}
    try:
        return client.param_serialize(
            request.method, request.resource, header_params=headers, body=request.body, auth_settings=["BearerToken"]
        )
    except (ConfigException, OSError, ValueError) as error:  # a token file that is being written, a login plugin
        raise ConnectError(
            f"The credentials for the Kubernetes API server can't be renewed: {first_line(error)}"
        ) from None


@contextmanager
def _checking(check: Callable[[], None] | None) -> Iterator[None]:
    token = _last_check.set(check)
    try:
        yield
    finally:
        _last_check.reset(token)


def _delay(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header; Kubernetes never sends a date there."""
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    """Return the innermost cause: urllib3 wraps what went wrong in sentences about itself."""
    while isinstance(error.__cause__ or error.__context__, OSError):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    # The client's words for a failed handshake have several lines; the certificate's fault is in the last one.
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    return scrubbed(said).rstrip(".") or type(error).__name__
