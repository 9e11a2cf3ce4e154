"""What the healer has found: asked at most once in 5 s by this process, whatever the number of viewers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from operator import itemgetter
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from kpo_healer_airflow import settings
from kpo_healer_airflow.client import Answer, Client, HealerError
from kpo_healer_airflow.found import Found
from kpo_healer_airflow.settings import Settings, SettingsError
from kpo_healer_airflow.wire import AirflowStatus, Finding, Notice, Status

__all__ = ["HISTORY_DAYS", "Healer", "Picture"]

FRESH = 5.0
"""Seconds for which an answer is shown without another question."""

USABLE = 30.0
"""Seconds for which an answer is still shown while another viewer's question is under way."""

HISTORY_DAYS = 14

T = TypeVar("T", Finding, Notice)
K = TypeVar("K")
M = TypeVar("M")


class Picture(Struct, frozen=True):
    """One look at the healer.

    problem: one sentence where there is nothing to show, else empty. found: the findings, ready to be shown. looked:
    the healer's last pass. incomplete: why not all Pods could be judged; it may name any DAG. history: newest first,
    None where the healer keeps none; complete_since: what was deleted before is not in it.
    """

    problem: str = ""
    configured: bool = True
    looked: datetime | None = None
    incomplete: str = ""
    found: Found = Found()
    notices: Sequence[Notice] = ()
    history: Sequence[Finding] | None = None
    complete_since: datetime | None = None
    status: AirflowStatus | None = None

    @property
    def findings(self) -> Sequence[Finding]:
        """All findings, in the order in which they are shown."""
        return self.found.findings

    @property
    def dags(self) -> set[str]:
        """The DAGs of all that is in it, where they are proven."""
        of_notices, of_healed = (n.dag for n in self.notices), (f.dag for f in self.history or ())
        return {dag for dag in (*self.found.places, *of_notices, *of_healed) if dag is not None}


class Healer:
    """The healer as this process sees it; safe to use from many threads."""

    def __init__(
        self,
        load: Callable[[], Settings] = settings.load,
        connect: Callable[[Settings], Client] = Client,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`load` reads the configuration, `connect` makes a client of it, `clock` tells seconds."""
        self._load = load
        self._connect = connect
        self._clock = clock
        self._asking = threading.Lock()
        self._seen: tuple[float, Picture] | None = None
        self._client: Client | None = None
        self._made: dict[str, tuple[Answer, Any]] = {}

    def picture(self) -> Picture:
        """Return what the healer says, at most some seconds old; never raises for what the healer does."""
        if (seen := self._younger_than(FRESH)) is not None:
            return seen
        usable = self._younger_than(USABLE)
        if not self._asking.acquire(blocking=usable is None) and usable is not None:
            return usable
        try:
            seen = self._younger_than(FRESH)  # another thread may have asked while this one waited
            if seen is None:
                seen = self._ask()
                self._seen = self._clock(), seen
            return seen
        finally:
            self._asking.release()

    def _younger_than(self, seconds: float) -> Picture | None:
        seen = self._seen
        return seen[1] if seen is not None and self._clock() - seen[0] < seconds else None

    def _ask(self) -> Picture:
        try:
            options = self._load()
        except SettingsError as error:
            return Picture(problem=str(error), configured=False)
        if self._client is None or self._client.settings != options:
            self._client, self._made = self._connect(options), {}
        try:
            return self._look(self._client, options.airflow)
        except (HealerError, SettingsError) as error:
            return Picture(problem=str(error))

    def _look(self, client: Client, airflow: str) -> Picture:
        with client.round() as ask:
            findings = ask.findings()
            if findings is None:
                raise HealerError("kpo-healer does not serve its findings: set findings: true in its configuration.")
            notices, history, status = ask.notices(), ask.history(HISTORY_DAYS), ask.status()
        # A healer may look after several Airflows, whose DAGs may be called alike.
        mine: Callable[[Iterable[T]], list[T]] = lambda told: [one for one in told if one.airflow == airflow]  # noqa: E731
        return Picture(
            looked=_moment(findings.headers.get("last-modified")),
            incomplete=findings.headers.get("kpo-healer-incomplete", ""),
            found=self._read("findings", findings, list[Finding], lambda told: Found.of(mine(told))) or Found(),
            notices=self._read("notices", notices, list[Notice], mine) or (),
            history=self._read("history", history, list[Finding], lambda told: _newest_first(mine(told))),
            complete_since=_moment(history.headers.get("kpo-healer-since")) if history else None,
            status=self._read("status", status, Status, lambda told: _of(told, airflow)),
        )

    def _read(self, what: str, answer: Answer | None, kind: type[K], make: Callable[[K], M]) -> M | None:
        """Make of an answer what is shown, or return what was made of it before: 10,000 findings are some 9 MB."""
        if answer is None:
            return None
        before = self._made.get(what)
        if before is not None and before[0] is answer:
            return before[1]  # type: ignore[no-any-return]
        try:
            made = make(msgspec.json.decode(answer.body, type=kind))
        except (msgspec.MsgspecError, ValueError, RecursionError):  # the latter two: no UTF-8, nested for ever
            raise HealerError(
                f"kpo-healer's /{what} is not understood: check that [kpo_healer] url is its address, and update "
                "kpo-healer-airflow."
            ) from None
        self._made[what] = answer, made
        return made


def _newest_first(entries: Iterable[Finding]) -> list[Finding]:
    dated = [(entry.deleted, entry) for entry in entries if entry.deleted is not None]
    return [entry for _, entry in sorted(dated, key=itemgetter(0), reverse=True)]


def _of(status: Status, airflow: str) -> AirflowStatus | None:
    return next((one for one in status.airflows if one.airflow == airflow), None)


def _moment(header: str | None) -> datetime | None:
    """Read a moment as HTTP or RFC 3339 writes it; None for anything else."""
    if not header:
        return None
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = read(header.replace("Z", "+00:00") if header.endswith("Z") else header)
        except (ValueError, TypeError, OverflowError):
            continue
        return moment if moment.tzinfo else None
    return None
