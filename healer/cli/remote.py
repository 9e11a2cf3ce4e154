"""Findings of a running healer, read over HTTP instead of looking oneself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3
from msgspec import Struct
from urllib3.exceptions import HTTPError

from healer.board import INCOMPLETE_HEADER, PODS_HEADER

TIMEOUT = urllib3.Timeout(connect=5.0, read=60.0)

MAX_BODY = 256 << 20
"""Bytes of an answer beyond which it is not read on: about 200,000 findings."""

PATH, NOTICES = "/findings", "/notices"


class RemoteError(Exception):
    """The healer could not be asked, or had no answer; the text says what to do."""


class Findings(Struct, frozen=True):
    """What a healer has found, in the form of the JSON output; `pods` is how many Pods it knows."""

    found: list[dict[str, Any]]
    pods: int | None
    incomplete: tuple[str, ...]
    notices: tuple[dict[str, Any], ...] = ()


class _Finding(Struct):
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
    since: str | None
    due: str | None


class _Notice(Struct):
    """What a notice must have for us to show it."""

    notice: str
    namespace: str
    pod: str
    airflow: str
    task: dict[str, Any] | None
    detail: str


def url_of(source: str) -> str:
    """Return the address of the findings under a URL that a user gave.

    Raises ValueError with a sentence.
    """
    try:
        parts = urlsplit(source)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and not (parts.query or parts.fragment)
        _ = parts.port  # looked at for its ValueError
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{source!r} is not the URL of a running healer: write it like http://localhost:8080")
    return f"{source.rstrip('/').removesuffix(PATH)}{PATH}"


def fetch(url: str, **query: str) -> Findings:
    """Read the findings at an address.

    Raises RemoteError.
    """
    found, headers = _get(f"{url}?{urlencode(query)}" if query else url, _Finding)
    why, pods = headers.get(INCOMPLETE_HEADER), headers.get(PODS_HEADER, "")
    return Findings(found, int(pods) if pods.isascii() and pods.isdigit() else None, (why,) if why else ())


def fetch_notices(url: str) -> tuple[dict[str, Any], ...]:
    """Read the notices of the healer whose findings are at this address.

    Raises RemoteError.
    """
    return tuple(_get(url.removesuffix(PATH) + NOTICES, _Notice)[0])


def _get(url: str, form: type[Struct]) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    try:
        with urllib3.PoolManager(retries=False, timeout=TIMEOUT) as pool:
            reply = pool.request("GET", url, redirect=False, preload_content=False)
            body = reply.read(MAX_BODY + 1)
            reply.release_conn()
    except HTTPError as error:
        raise RemoteError(f"no healer answers at {url} ({_cause(error)}): is it reachable from here?") from None
    if len(body) > MAX_BODY:
        raise RemoteError(f"{url} answers with more than {MAX_BODY >> 20} MiB: is a healer there?")
    return _understood(url, reply.status, body, form), reply.headers


def _understood(url: str, status: int, body: bytes, form: type[Struct]) -> list[dict[str, Any]]:
    if status == 404:
        raise RemoteError(f"{url} does not exist: set findings: true for that healer (KPO_HEALER_FINDINGS)")
    if status != 200:
        said = " ".join(body[:500].decode(errors="replace").split())
        raise RemoteError(f"{url} answers {status}: {said or 'nothing'}")
    try:
        found = msgspec.json.decode(body, type=list[dict[str, Any]])
        msgspec.convert(found, list[form])  # type: ignore[valid-type]
    except (msgspec.DecodeError, ValueError):
        raise RemoteError(f"{url} answers with something else than findings: is a healer there?") from None
    return found


def _cause(error: HTTPError) -> str:
    """Return the last part of urllib3's nested message: `[Errno 111] Connection refused`."""
    return str(error).rpartition(": ")[2].rstrip(").") or type(error).__name__
