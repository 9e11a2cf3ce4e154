"""`/findings` and `/notices`: what the leader has found, for whoever asks, without another question to Airflow.

The deciding thread pins a new picture to the board after each pass, as one reference, and waits for nobody; the threads
of the HTTP server read whichever is there and write it out one at a time, so that many readers need no more memory
than one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from healer.leader import LEASE, Elector, Office
from healer.model import Action
from healer.reconcile import View
from healer.report import Shown
from healer.serving import Reply, plain

PODS_HEADER = "Kpo-Healer-Pods"
"""How many Pods of the KubernetesPodOperator are known."""

INCOMPLETE_HEADER = "Kpo-Healer-Incomplete"
"""Why not all of them could be judged; missing where all could."""

JSON = "application/json"


class Wanted(Struct, frozen=True):
    """Which findings a query asks for: suspects, all, or those on the Pod of this namespace and name."""

    everything: bool = False
    pod: str | None = None


class _Picture(Struct, frozen=True):
    """What one pass has left. `made` is epoch seconds."""

    views: tuple[View, ...]
    unreadable: Mapping[str, str]
    made: float


class Board:
    """Where the deciding thread pins what it has found."""

    def __init__(self, office: Office) -> None:
        """`office` tells whether this replica leads: others have no findings of their own."""
        self._office = office
        self._picture: _Picture | None = None
        self._one_at_a_time = threading.Lock()

    def post(self, views: Sequence[View], unreadable: Mapping[str, str], made: float) -> None:
        """Put up what is known after a pass; `made` is epoch seconds. Never waits for a reader."""
        self._picture = _Picture(tuple(views), dict(unreadable), made)

    def clear(self) -> None:
        """Take down what an earlier term has left."""
        self._picture = None

    def findings(self, _accept: str, query: str) -> Reply:
        """Answer with the findings as a JSON array; 503 and one sentence where this replica has none."""
        wanted = _wanted(query)
        if isinstance(wanted, str):
            return plain(HTTPStatus.BAD_REQUEST, wanted)
        return self._answer(lambda picture: _findings(picture, wanted))

    def notices(self, _accept: str, _query: str) -> Reply:
        """Answer with what is worth a look, as a JSON array; 503 as above."""
        return self._answer(lambda picture: [n.to_dict() for view in picture.views for n in view.notices()])

    def _answer(self, write: Callable[[_Picture], list[dict[str, Any]]]) -> Reply:
        picture = self._picture  # one read: what is put up meanwhile is for the next reader
        if not self._office.leads():
            return plain(HTTPStatus.SERVICE_UNAVAILABLE, _ask_the_leader(self._office))
        if picture is None:
            return plain(HTTPStatus.SERVICE_UNAVAILABLE, "no pass has been made yet: try again in a moment")
        with self._one_at_a_time:
            return _written(picture, write(picture))


def _wanted(query: str) -> Wanted | str:
    """Return what a query asks for, or what is wrong with it."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = given.keys() - {"all", "pod"}
    if unknown:
        return f"unknown parameter {min(unknown)!r}: use all=true or pod=NAMESPACE/NAME"
    if given.get("all", "false") not in {"true", "false"}:
        return "all must be true or false"
    return Wanted(given.get("all") == "true", given.get("pod"))


def _ask_the_leader(office: Office) -> str:
    holder = office.seen.holder if isinstance(office, Elector) and office.seen else ""
    whom = f"the leader, {holder}" if holder else f"the holder of the Lease {LEASE}, as soon as there is one"
    return f"this replica does not lead and has no findings: ask {whom}"


def _findings(picture: _Picture, wanted: Wanted) -> list[dict[str, Any]]:
    return [shown.to_dict() for view in picture.views for shown in _chosen(view, wanted)]


def _written(picture: _Picture, found: list[dict[str, Any]]) -> Reply:
    about = {
        "Last-Modified": formatdate(picture.made, usegmt=True),
        PODS_HEADER: str(sum(len(view.records) for view in picture.views)),
    }
    why = "; ".join(_incomplete(picture))
    if why:
        about[INCOMPLETE_HEADER] = why.encode("unicode_escape").decode("ascii")
    return Reply(HTTPStatus.OK, msgspec.json.encode(found), JSON, about)


def _chosen(view: View, wanted: Wanted) -> Iterator[Shown]:
    for shown in view.findings():
        asked_for = str(shown.pod) == wanted.pod if wanted.pod is not None else wanted.everything
        if asked_for or (wanted.pod is None and shown.action is not Action.KEEP):
            yield shown


def _incomplete(picture: _Picture) -> Iterator[str]:
    """Say what could not be read. A Pod that is merely too new to have been asked about is not worth a word."""
    yield from (f"namespace {name}: {why}" for name, why in picture.unreadable.items())
    doubtful = [
        record
        for view in picture.views
        for record in view.records
        if record.doubt is not None and record.pod.namespace not in picture.unreadable
    ]
    if doubtful:
        yield f"{len(doubtful)} Pods: Airflow gave no clear answer: {doubtful[0].finding.detail}"
