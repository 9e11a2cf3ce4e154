"""Findings of a running healer, read over HTTP instead of looking oneself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3
from msgspec import Meta, Struct
from urllib3.exceptions import HTTPError

from healer.errors import ConfigError, RemoteError
from healer.redaction import first_line
from healer.telemetry.findings_endpoint import INCOMPLETE_HEADER, PODS_HEADER, SINCE_HEADER, UNDECODABLE_HEADER

TIMEOUT = urllib3.Timeout(connect=5.0, read=60.0)

MAX_BODY = 256 << 20
"""Bytes of an answer beyond which it is not read on: about 200,000 findings."""

Moment = Annotated[datetime, Meta(tz=True)]

PATH, NOTICES, HISTORY = "/findings", "/notices", "/history"


class RemoteFindings(Struct, frozen=True):
    """What a healer has found, in the form of the JSON output; `pods` is how many Pods it knows.

    `undecodable` names Pods that nothing could be found out about: not all of them, if `undecodable_total` is more.
    `now` is the server's time in epoch seconds, where it is known.
    """

    found: list[dict[str, Any]]
    pods: int | None
    incomplete: tuple[str, ...]
    notices: tuple[dict[str, Any], ...] = ()
    undecodable: tuple[str, ...] = ()
    undecodable_total: int = 0
    now: float | None = None


class _Undecodable(Struct):
    """What the header tells of Pods that can't be decoded."""

    total: int
    pods: tuple[str, ...]


class Healer(Struct, frozen=True):
    """A running healer: where its findings are, and the token that it wants, empty for none."""

    url: str
    token: str = ""

    def at(self, path: str) -> str:
        """Return the address of another one of its pages."""
        return self.url.removesuffix(PATH) + path


class RemoteHistory(Struct, frozen=True):
    """What a healer has deleted, newest first, in the form of the JSON output; complete `since` then (RFC 3339)."""

    deleted: list[dict[str, Any]]
    since: str | None


class _HoldsFields(Struct):
    """The form of what a Pod holds, as far as it is told."""

    cpu_cores: float | None = None
    memory_bytes: float | None = None
    extended: dict[str, float] | None = None
    since: Moment | None = None


class _CauseFields(Struct):
    """The form of a cause, where one is told."""

    name: str
    detail: str
    remedy: str


class _PodNoticeFields(Struct):
    """The form of a notice about the Pod of a finding."""

    name: str
    detail: str


class _FindingFields(Struct):
    """What a finding must have for us to show it."""

    namespace: str
    pod: str
    uid: str
    airflow: str
    reason: str
    action: str
    detail: str
    labels: dict[str, str]
    task: dict[str, Any] | None
    withheld: str | None
    since: Moment | None
    due: Moment | None
    created: Moment | None = None
    holds: _HoldsFields | None = None
    cause: _CauseFields | None = None
    notices: list[_PodNoticeFields] = []


class _NoticeFields(Struct):
    """What a notice must have for us to show it."""

    notice: str
    namespace: str
    pod: str
    airflow: str
    task: dict[str, Any] | None
    detail: str


class _HistoryFields(Struct):
    """What a deletion must have for us to show it."""

    namespace: str
    pod: str
    airflow: str
    reason: str
    deleted: Moment
    task: dict[str, Any] | None
    labels: dict[str, str]
    holds: _HoldsFields | None = None
    cause: _CauseFields | None = None


def url_of(source: str) -> str:
    """Return the address of the findings under a URL that a user gave.

    Raises ValueError with a sentence.
    """
    try:
        parts = urlsplit(source)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and not (parts.query or parts.fragment)
        good = good and "@" not in source
        _ = parts.port  # looked at for its ValueError
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            "--from: that is not the URL of a running healer: write it like http://localhost:8080, without a login"
        )
    return f"{source.rstrip('/').removesuffix(PATH)}{PATH}"


def read_token(file: str | None) -> str:
    """Return the token in a file, empty where none is named.

    Raises ConfigError.
    """
    if file is None:
        return ""
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ConfigError(f"--listen-token-file: can't read the file that it names: {why}") from None
    if not token or not (token.isascii() and token.isprintable()):
        raise ConfigError("--listen-token-file: the file must hold a token, one line of ASCII characters")
    return token


def fetch(healer: Healer, **query: str) -> RemoteFindings:
    """Read the findings of a healer.

    Raises RemoteError.
    """
    found, headers = _get(healer, PATH, _FindingFields, query)
    why, pods = headers.get(INCOMPLETE_HEADER), headers.get(PODS_HEADER, "")
    count = int(pods) if pods.isascii() and pods.isdigit() else None
    odd = _undecodable(headers.get(UNDECODABLE_HEADER))
    return RemoteFindings(found, count, (why,) if why else (), undecodable=odd.pods, undecodable_total=odd.total)


def fetch_notices(healer: Healer) -> tuple[dict[str, Any], ...]:
    """Read the notices of a healer.

    Raises RemoteError.
    """
    return tuple(_get(healer, NOTICES, _NoticeFields)[0])


def fetch_history(healer: Healer, **query: str) -> RemoteHistory:
    """Read what a healer has deleted.

    Raises RemoteError.
    """
    deleted, headers = _get(healer, HISTORY, _HistoryFields, query)
    return RemoteHistory(deleted, headers.get(SINCE_HEADER))


def _get(
    healer: Healer, path: str, form: type[Struct], query: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    url = healer.at(path)
    headers = {"Authorization": f"Bearer {healer.token}"} if healer.token else {}
    try:
        with urllib3.PoolManager(retries=False, timeout=TIMEOUT) as pool:
            asked = f"{url}?{urlencode(query)}" if query else url
            reply = pool.request("GET", asked, headers=headers, redirect=False, preload_content=False)
            body = reply.read(MAX_BODY + 1)
            reply.release_conn()
    except (HTTPError, ValueError) as error:
        raise RemoteError(f"no healer answers at {url} ({_cause(error)}): is it reachable from here?") from None
    if len(body) > MAX_BODY:
        raise RemoteError(f"{url} answers with more than {MAX_BODY >> 20} MiB: is a healer there?")
    return _understood(url, reply.status, body, form), reply.headers


def _undecodable(told: str | None) -> _Undecodable:
    """Read the header; older healers send none."""
    try:
        return msgspec.json.decode(told or "", type=_Undecodable)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _Undecodable(0, ())


def _understood(url: str, status: int, body: bytes, form: type[Struct]) -> list[dict[str, Any]]:
    if status == 404:
        more = "" if not url.endswith(HISTORY) else ", and history other than off"
        raise RemoteError(f"{url} does not exist: set findings: true for that healer (KPO_HEALER_FINDINGS){more}")
    if status == 401:
        raise RemoteError(f"{url} wants another token: give --listen-token-file with what its listenTokenFile holds")
    if status != 200:
        said = " ".join(body[:500].decode(errors="replace").split())
        raise RemoteError(f"{url} answers {status}: {said or 'nothing'}")
    try:
        found = msgspec.json.decode(body, type=list[dict[str, Any]])
        msgspec.convert(found, list[form])  # type: ignore[valid-type]
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise RemoteError(f"{url} answers with something else than findings: is a healer there?") from None
    return found


def _cause(error: Exception) -> str:
    """Return the last part of urllib3's nested message: `[Errno 111] Connection refused`."""
    return first_line(str(error).rpartition(": ")[2].rstrip(").")) or type(error).__name__
