"""Asks the healer's port: finds the replica that leads, and takes no more than it can bear."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

import httpx
from msgspec import Struct

from kpo_healer_airflow.settings import Settings

__all__ = ["Answer", "Client", "HealerError", "Round"]

TIMEOUT = 3.0
"""Seconds for one connection, and for each wait for more of an answer."""

LONGEST = 6.0
"""Seconds after which a round of questions is given up."""

LARGEST = 64 * 2**20
"""Bytes of one answer; 10,000 findings are some 9 MB."""

TRIES = 5
"""New connections to one address: behind a ClusterIP each may reach another replica."""


class HealerError(Exception):
    """The healer has nothing to show; the text is one sentence for the page."""


class Answer(Struct, frozen=True, eq=False):
    """An answer of status 200; header names are in lower case."""

    body: bytes
    headers: Mapping[str, str]


class Client:
    """Talks to the healer at `settings.url`; one round of questions at a time."""

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet."""
        self.settings = settings
        # Environment variables name proxies for the world outside; the healer is near.
        self._http = httpx.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False)
        self._leader: str | None = None
        self._cache: dict[str, Answer] = {}

    @contextmanager
    def round(self) -> Iterator[Round]:
        """Ask some questions of the same replica. Raises HealerError where none answers."""
        yield Round(self, time.monotonic() + LONGEST)

    def get(self, path: str, deadline: float) -> Answer | int:
        """Ask the replica that leads: its answer, or the status 400 or 404. Raises HealerError, SettingsError."""
        trouble = HealerError("kpo-healer can't be reached at the address in [kpo_healer] url.")
        for address in self._addresses():
            if time.monotonic() > deadline:
                break
            try:
                answer = self._get(address, path, deadline)
            except httpx.HTTPError:
                continue
            if isinstance(answer, Answer) or answer in {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND}:
                self._leader = address
                return answer
            trouble = _explain(answer)
        self._leader = None
        raise trouble

    def _addresses(self) -> list[str]:
        """Return the addresses to try, the last leader's first: a headless Service names all replicas."""
        parts = urlsplit(self.settings.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # the latter for what can't be a name, as a..b
            raise HealerError("The host in [kpo_healer] url has no address: check its name.") from None
        names = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        if len(names) == 1:
            return names * TRIES
        return sorted(names, key=lambda name: name != self._leader)

    def _get(self, address: str, path: str, deadline: float) -> Answer | int:
        """Ask one replica; an answer of before where the healer says that nothing has changed."""
        before = self._cache.get(path)
        with closing(self._http.send(self._request(address, path, before), stream=True)) as response:
            if response.status_code == HTTPStatus.NOT_MODIFIED and before is not None:
                return before
            if response.status_code != HTTPStatus.OK:
                return response.status_code
            answer = Answer(_body(response, deadline), dict(response.headers))
        self._cache[path] = answer
        return answer

    def _request(self, address: str, path: str, before: Answer | None) -> httpx.Request:
        parts = urlsplit(self.settings.url)
        headers = {"Host": parts.netloc, "Accept": "application/json"}
        token = self.settings.bearer()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if before is not None and "etag" in before.headers:  # another replica's never fits
            headers["If-None-Match"] = before.headers["etag"]
        url = httpx.URL(self.settings.url + path).copy_with(host=address)
        # Certificates are checked against the name, not the address behind it.
        return self._http.build_request("GET", url, headers=headers, extensions={"sni_hostname": parts.hostname})


class Round:
    """The questions of one look."""

    def __init__(self, client: Client, deadline: float) -> None:
        """`deadline` is a moment of the monotonic clock."""
        self._client = client
        self._deadline = deadline
        self._airflow = {"airflow": client.settings.airflow}

    def findings(self) -> Answer | None:
        """Ask for the suspects; None where the healer serves none."""
        return self._ask("/findings", self._airflow)

    def notices(self) -> Answer | None:
        """Ask what else is worth a look."""
        return self._ask("/notices", self._airflow)

    def history(self, days: int) -> Answer | None:
        """Ask what was deleted; None where the healer is older or keeps no history."""
        return self._ask("/history", {"days": str(days), **self._airflow})

    def status(self) -> Answer | None:
        """Ask for mode and breaker; None where the healer is older."""
        return self._ask("/status", {})

    def _ask(self, path: str, query: Mapping[str, str]) -> Answer | None:
        answer = self._client.get(f"{path}?{urlencode(query)}" if query else path, self._deadline)
        if answer == HTTPStatus.BAD_REQUEST and query:  # an older healer does not know `airflow`
            answer = self._client.get(path, self._deadline)
        return answer if isinstance(answer, Answer) else None


def _body(response: httpx.Response, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    for part in response.iter_bytes():
        size += len(part)
        if size > LARGEST:
            raise HealerError("kpo-healer's answer is too large to be shown.")
        if time.monotonic() > deadline:
            raise HealerError("kpo-healer takes too long to answer.")
        parts.append(part)
    return b"".join(parts)


def _explain(status: int) -> HealerError:
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return HealerError("kpo-healer refuses the token: [kpo_healer] token_file must hold what listenTokenFile does.")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return HealerError("kpo-healer has nothing to show yet: it has just started, or none of its replicas leads.")
    return HealerError(f"kpo-healer answers with HTTP {status}: check that [kpo_healer] url is its address.")
