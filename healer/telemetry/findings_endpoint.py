"""`/findings`, `/notices`, `/history`, `/status`: what the leader knows, without another question to Airflow.

The thread that makes the passes of an Airflow pins a new picture to the board after each, as one reference, and waits
for nobody; the threads of the HTTP server read whichever is there and write it out one at a time, so that many readers
need no more memory than one.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from healer import __version__
from healer.insights.history import MAX_AGE, History
from healer.leader_election import LeaderElector, Leadership
from healer.model import Action, rfc3339
from healer.telemetry.documents import Documents
from healer.telemetry.findings import FindingView, NoticeView
from healer.telemetry.http_server import HttpReply, HttpRequest, Route, plain
from healer.telemetry.snapshot import Snapshot

PODS_HEADER = "Kpo-Healer-Pods"
"""How many Pods of the KubernetesPodOperator are known."""

INCOMPLETE_HEADER = "Kpo-Healer-Incomplete"
"""Why not all of them could be judged; missing where all could."""

UNDECODABLE_HEADER = "Kpo-Healer-Undecodable"
"""Pods that nothing could be found out about, as JSON: `{"total": 12, "pods": ["namespace/name", …]}`, at most
`MOST_UNDECODABLE` of them named; missing where there are none."""

MOST_UNDECODABLE = 20
"""A header is no place for thousands of names: of a proxy's 8 kB these take 6.4 at most."""

LONGEST_NAME = 317
"""Characters of `namespace/name`, as Kubernetes allows them: of a Pod that can't be decoded nothing is certain."""
SINCE_HEADER = "Kpo-Healer-Since"
"""From when on the history is complete."""

JSON = "application/json"

UNASKED = 600.0
"""Seconds without a question after which nothing is kept for the next one: 10,000 findings take 12 MB."""

MAX_DAYS = int(MAX_AGE // 86400)

_FILTERS = {"airflow": "airflow=NAME", "dag": "dag=DAG_ID"}
PARAMETERS = {
    "/findings": {"all": "all=true", "pod": "pod=NAMESPACE/NAME", **_FILTERS},
    "/notices": _FILTERS,
    "/history": {"days": "days=N", **_FILTERS},
    "/status": {},
}
"""What each page takes, and how it is written."""


class FindingsQuery(Struct, frozen=True):
    """What a query asks for: suspects, all, or those on the Pod of this namespace and name; of one Airflow or DAG.

    `days`: of the history, the last so many.
    """

    everything: bool = False
    pod: str | None = None
    airflow: str | None = None
    dag: str | None = None
    days: int = MAX_DAYS

    def admits(self, view: FindingView | NoticeView) -> bool:
        """Whether it is of the Airflow and the DAG that are asked for."""
        return self.airflow in {None, view.airflow} and self.dag in {None, view.dag}


class _Published(Struct, frozen=True):
    """What the last pass of each Airflow has left, the oldest of them at `made` (epoch seconds); `lacking` had none."""

    views: tuple[Snapshot, ...]
    unreadable: Mapping[str, str]
    made: float
    lacking: tuple[str, ...] = ()
    undecodable: tuple[str, ...] = ()


class _Posted(Struct, frozen=True):
    """What one pass over the Pods of one Airflow has left."""

    view: Snapshot
    unreadable: Mapping[str, str]
    made: float
    undecodable: tuple[str, ...] = ()
    problem: str | None = None


class _Board(Struct, frozen=True):
    """What is up, by Airflow, and since when each is looked after (epoch seconds). Each change has its own number."""

    posted: Mapping[str, _Posted] = {}
    since: Mapping[str, float] = {}
    number: int = 0


class FindingsEndpoint:
    """Where what was found is put up, by the thread of each Airflow. Safe to use from several threads."""

    def __init__(
        self,
        leadership: Leadership,
        airflows: Sequence[str] = (),
        history: History | None = None,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Serve nothing yet.

        Args:
            leadership: tells whether this replica leads: others have no findings of their own.
            airflows: who posts.
            history: what was healed; None where that is not kept.
            wall: epoch seconds, for people and for what is kept to save work.
        """
        self._leadership, self._airflows, self._history, self._wall = leadership, tuple(airflows), history, wall
        self._board, self._identity = _Board(), secrets.token_hex(4)
        self._posting, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._documents, self._asked = Documents(), 0.0
        self._written: dict[str, tuple[object, HttpReply]] = {}
        """What was last asked of each page, and the answer: all API servers of an Airflow ask the same."""

    @property
    def pages(self) -> dict[str, Route]:
        """Each page by its path."""
        return {
            "/findings": self.findings,
            "/notices": self.notices,
            "/history": self.history,
            "/status": self.status,
        }

    def publish(
        self,
        views: Sequence[Snapshot],
        unreadable: Mapping[str, str],
        made: float,
        *,
        undecodable: Iterable[str] = (),
        problem: str | None = None,
    ) -> None:
        """Put up what is known after a pass; `made` is epoch seconds. Never waits for a reader.

        `undecodable`: the Pods of these Airflows that nothing could be found out about, as `namespace/name`.
        `problem`: why Airflow's answers are missing, None where they are not.
        """
        odd = tuple(undecodable)
        with self._posting:
            new = {snapshot.config.name: _Posted(snapshot, dict(unreadable), made, odd, problem) for snapshot in views}
            board = self._board
            since = {**dict.fromkeys(new, made), **board.since}
            self._board, self._written = _Board({**board.posted, **new}, since, board.number + 1), {}
        if abs(self._wall() - self._asked) > UNASKED:
            self._documents = Documents()

    def clear(self, airflow: str | None = None) -> None:
        """Take down what an earlier term has left, of one Airflow or of all: another term begins."""
        with self._posting:
            board = self._board
            left = {name: each for name, each in board.posted.items() if airflow not in {name, None}}
            names = self._airflows if airflow is None else (airflow,)
            since = {**board.since, **dict.fromkeys(names, self._wall())}
            self._board, self._written = _Board(left, since, board.number + 1), {}

    def _seen(self, posted: Mapping[str, _Posted]) -> _Published | None:
        """Return what is up; None where no pass has been made yet."""
        if not posted:
            return None
        names = [*self._airflows, *(name for name in posted if name not in self._airflows)]
        up = [posted[name] for name in names if name in posted]
        unreadable = {name: why for each in up for name, why in each.unreadable.items()}
        lacking = tuple(name for name in names if name not in posted)
        odd = tuple(sorted({name for each in up for name in each.undecodable}))
        return _Published(tuple(each.view for each in up), unreadable, min(each.made for each in up), lacking, odd)

    def findings(self, request: HttpRequest) -> HttpReply:
        """Answer with the findings as a JSON array; 503 and one sentence where this replica has none."""
        return self._answer("/findings", request, self._findings)

    def notices(self, request: HttpRequest) -> HttpReply:
        """Answer with what is worth a look, as a JSON array; 503 as above."""
        return self._answer("/notices", request, _notices)

    def history(self, request: HttpRequest) -> HttpReply:
        """Answer with what was deleted lately as a JSON array, newest first; 404 where no history is kept."""
        wanted, history = _parse_query("/history", request.query), self._history
        if isinstance(wanted, str):
            return plain(HTTPStatus.BAD_REQUEST, wanted)
        if history is None:
            return plain(HTTPStatus.NOT_FOUND, "no history is kept: set history: memory")
        if not self._leadership.is_leader():
            return plain(HTTPStatus.SERVICE_UNAVAILABLE, _ask_the_leader(self._leadership))
        about = {"ETag": f'"{history.tag}"', SINCE_HEADER: str(rfc3339(history.since))}
        if request.if_none_match == about["ETag"]:
            return _not_modified(about)
        found = history.select(days=wanted.days, airflow=wanted.airflow, dag_id=wanted.dag)
        return HttpReply(HTTPStatus.OK, b"[" + b",".join(found) + b"]", JSON, about)

    def status(self, request: HttpRequest) -> HttpReply:
        """Answer how each Airflow is treated, as a JSON object; 503 as above."""
        return self._answer("/status", request, self._status)

    def _answer(
        self, path: str, request: HttpRequest, write: Callable[[_Published, FindingsQuery, str], bytes]
    ) -> HttpReply:
        wanted = _parse_query(path, request.query)
        if isinstance(wanted, str):
            return plain(HTTPStatus.BAD_REQUEST, wanted)
        board = self._board  # one read: what is put up meanwhile is for the next reader
        picture = self._seen(board.posted)
        if not self._leadership.is_leader():
            return plain(HTTPStatus.SERVICE_UNAVAILABLE, _ask_the_leader(self._leadership))
        if picture is None:
            return plain(HTTPStatus.SERVICE_UNAVAILABLE, "no pass has been made yet: try again in a moment")
        tag = f'"{self._identity}-{board.number}"'
        if request.if_none_match == tag:
            return _not_modified({"ETag": tag})
        with self._one_at_a_time:
            asked, written = (tag, wanted), self._written.get(path)
            if written is None or written[0] != asked:
                about = _about(picture) | {"ETag": tag}
                reply = HttpReply(HTTPStatus.OK, write(picture, wanted, tag), JSON, about)
                self._written = {**self._written, path: (written := (asked, reply))}
            return written[1]

    def _findings(self, picture: _Published, wanted: FindingsQuery, tag: str) -> bytes:
        self._asked = self._wall()
        return self._documents.write(
            (view for snapshot in picture.views for view in _matching(snapshot, wanted)), picture=tag
        )

    def _status(self, _picture: _Published, _wanted: FindingsQuery, _tag: str) -> bytes:
        board = self._board
        leader = self._leadership.identity if isinstance(self._leadership, LeaderElector) else None
        airflows = [_airflow_status(posted, board.since.get(name)) for name, posted in board.posted.items()]
        return msgspec.json.encode({"version": __version__, "leader": leader, "airflows": airflows})


def _airflow_status(posted: _Posted, since: float | None) -> dict[str, Any]:
    breaker = posted.view.breaker
    return {
        "airflow": posted.view.config.name,
        "mode": posted.view.config.mode.value,
        "since": rfc3339(since),
        "looked": rfc3339(posted.made),
        "breaker": {"since": rfc3339(breaker.since), "detail": breaker.detail} if breaker else None,
        "problem": posted.problem,
    }


def _parse_query(path: str, query: str) -> FindingsQuery | str:
    """Return what a query asks for, or what is wrong with it."""
    given, known = dict(parse_qsl(query, keep_blank_values=True)), PARAMETERS[path]
    unknown = given.keys() - known.keys()
    if unknown:
        usage = f"use {' or '.join(known.values())}" if known else f"{path} takes none"
        return f"unknown parameter {min(unknown)!r}: {usage}"
    if given.get("all", "false") not in {"true", "false"}:
        return "all must be true or false"
    days = given.get("days", str(MAX_DAYS))
    if not (days.isascii() and days.isdigit() and len(days) < 5 and 1 <= int(days) <= MAX_DAYS):
        return f"days must be a number from 1 to {MAX_DAYS}"
    everything, (pod, airflow, dag) = given.get("all") == "true", map(given.get, ("pod", "airflow", "dag"))
    return FindingsQuery(everything, pod, airflow, dag, int(days))


def _not_modified(about: Mapping[str, str]) -> HttpReply:
    return HttpReply(HTTPStatus.NOT_MODIFIED, b"", JSON, about)


def _ask_the_leader(leadership: Leadership) -> str:
    holder = leadership.seen.holder if isinstance(leadership, LeaderElector) and leadership.seen else ""
    whom = f"the leader, {holder}" if holder else "the holder of the Lease, as soon as there is one"
    return f"this replica does not lead and has no findings: ask {whom}"


def _notices(picture: _Published, wanted: FindingsQuery, _tag: str) -> bytes:
    told = (notice for snapshot in picture.views for notice in snapshot.notices())
    return msgspec.json.encode([notice.to_dict() for notice in told if wanted.admits(notice)])


def _about(picture: _Published) -> dict[str, str]:
    about = {
        "Last-Modified": formatdate(picture.made, usegmt=True),
        PODS_HEADER: str(sum(len(snapshot.records) for snapshot in picture.views)),
    }
    if picture.undecodable:
        about[UNDECODABLE_HEADER] = _named(picture.undecodable)
    why = "; ".join(_incomplete(picture))
    if why:
        about[INCOMPLETE_HEADER] = why.encode("unicode_escape").decode("ascii")
    return about


def _named(undecodable: Sequence[str]) -> str:
    told = {"total": len(undecodable), "pods": [name[:LONGEST_NAME] for name in undecodable[:MOST_UNDECODABLE]]}
    return json.dumps(told)  # ASCII only, as a header must be


def _matching(snapshot: Snapshot, wanted: FindingsQuery) -> Iterator[FindingView]:
    for view in snapshot.findings():
        if not wanted.admits(view):
            continue
        asked_for = str(view.pod) == wanted.pod if wanted.pod is not None else wanted.everything
        if asked_for or (wanted.pod is None and view.action is not Action.KEEP):
            yield view


def _incomplete(picture: _Published) -> Iterator[str]:
    """Say what could not be read. A Pod that is merely too new to have been asked about is not worth a word."""
    yield from (f"Airflow {name}: no pass has ended yet" for name in picture.lacking)
    yield from (f"namespace {name}: {why}" for name, why in picture.unreadable.items())
    doubtful = [
        record
        for snapshot in picture.views
        for record in snapshot.records
        if record.last_unclear is not None and record.pod.namespace not in picture.unreadable
    ]
    if doubtful:
        yield f"{len(doubtful)} Pods: Airflow gave no clear answer: {doubtful[0].finding.detail}"
