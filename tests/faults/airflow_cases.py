"""The fault matrix of Airflow's side: what breaks, and what kpo-healer then makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tests.e2e.world import EAGER, UNLIMITED
from tests.faults import airflow_faults as bad
from tests.faults import proxy
from tests.faults.proxy import Asked, Fault


class Break(NamedTuple):
    """What the proxy breaks, of which requests, how often (None: as long as the case lasts)."""

    fault: Fault
    when: Callable[[Asked], bool]
    times: int | None = None


FRESHNESS: Final = 2.0
"""Seconds: in the place of the 15 s by default, as the slow answer's double of it is in the place of 30 s."""

_ACTING: Final = ("orphaned", "finished", "kept", "superseded", "abandoned", "task-removed", "run-deleted")

HARSH: Final[Mapping[str, Any]] = {**EAGER, "actions": dict.fromkeys(_ACTING, "delete")}
"""A policy that deletes for every reason that may: nothing but the lack of a proof keeps a Pod."""


@dataclass(frozen=True)
class Case:
    """One fault.

    code: how kpo-healer counts these answers (`airflow_requests_total`). heals: the orphan is deleted although the
    fault lasts, for what is needed can still be known. sees: the findings that there must be meanwhile. asks: part of a
    path that must be asked for. refused: nobody listens. settings, policy, limits: of this Airflow.
    """

    name: str
    breaks: Sequence[Break] = ()
    code: str = "200"
    heals: bool = False
    sees: Sequence[str] = ("airflow-unknown",)
    asks: str = ""
    refused: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=lambda: HARSH)
    limits: Mapping[str, Any] = field(default_factory=lambda: UNLIMITED)

    def __str__(self) -> str:
        return self.name


def _asked(name: str, fault: Fault, code: str, **more: Any) -> Case:
    """A fault of the questions alone."""
    return Case(name, [Break(fault, bad.questions)], code, **more)


def _everywhere(name: str, fault: Fault, code: str, **more: Any) -> Case:
    """A fault of login and version too."""
    return Case(name, [Break(fault, bad.everything)], code, **more)


_CONNECTIONS: Final = (
    Case("refused", code="refused", refused=True),
    _everywhere("reset", proxy.reset, "reset"),
    _everywhere("answer-lost", proxy.lost, "reset"),
    _asked("cut-off", proxy.truncated(), "reset"),
)

_REFUSALS: Final = (
    _asked("401-token", bad.refusal(401, "Token Expired"), "401"),
    Case(
        "401-login",
        [
            Break(bad.refusal(401, "Token Expired"), bad.questions),
            Break(bad.refusal(401, "Invalid credentials"), bad.login, times=1),
        ],
        "401",
    ),
    _asked("403-token", bad.refusal(403, "Invalid JWT token"), "403"),
    _asked("403-permission", bad.refusal(403, "Forbidden"), "403"),
    Case("403-identity", [Break(bad.refusal(403, "Forbidden"), bad.identity)], "403"),
    _everywhere("404-path", bad.refusal(404, "Not Found"), "404"),
    _everywhere("404-html", bad.page(404), "404"),
    Case(
        "404-task",
        [Break(bad.no_rows, bad.lists), Break(bad.no_such_thing, bad.task_instance)],
        "404",
        sees=("absent",),
    ),
    Case(
        "404-other-words",
        [
            Break(bad.no_rows, bad.lists),
            Break(bad.refusal(404, "DagRun not found"), bad.singles),
        ],
        "404",
    ),
    Case(
        "404-dag",
        [Break(bad.no_rows, bad.lists), Break(bad.no_such_thing, bad.singles)],
        "404",
        sees=("absent",),
    ),
    _asked("429", proxy.answer(429, {"detail": "slow down"}, {"Retry-After": "5"}), "429"),
    _asked("500-database", proxy.answer(500, {"detail": {"reason": "Database error", "message": "id 7"}}), "500"),
    _asked("500-crash", bad.crashed, "500"),
    _everywhere("502-html", bad.page(502), "502"),
    _everywhere("302-login", bad.page(302, {"Location": "https://sso.example.com/login?next=%2F"}), "302"),
    _everywhere("200-html", bad.page(200), "unreadable"),
)

_GARBLED: Final = (
    _asked("truncated-json", bad.half_of_the_json, "unreadable"),
    _asked("broken-gzip", bad.damaged_gzip, "unreadable"),
)

_LIES: Final = (
    Case("empty-list", [Break(bad.no_rows, bad.lists)], heals=True, sees=()),
    Case(
        "dags-missing",
        [
            Break(bad.no_rows, bad.lists),
            Break(bad.refusal(403, "Forbidden"), bad.singles),
        ],
        "403",
    ),
    Case("short-page", [Break(bad.edit_list(bad.clamped), bad.lists)], heals=True, sees=("labels-ambiguous",)),
    Case(
        "short-for-ever", [Break(bad.edit_list(lambda rows, total: (rows, total + 1)), bad.lists)], heals=True, sees=()
    ),
    _asked("duplicate-rows", bad.edit_rows(lambda row: [row, row]), "200", heals=True, sees=()),
    _asked("contradictory-rows", bad.edit_rows(bad.contradicted), "200"),
    _asked(
        "unknown-state", bad.edit_rows(lambda row: [row | {"state": "hibernating"}]), "200", sees=("unexpected-state",)
    ),
    _asked("unknown-fields", bad.edit_rows(bad.decorated), "200", heals=True, sees=()),
    _asked("missing-field", bad.without_one_field(), "200"),
    _asked("null-field", bad.with_one_null(), "200"),
    _asked("row-of-another-run", bad.edit_rows(bad.of_another_run), "200"),
    Case("unknown-version", [Break(proxy.edit_json(lambda _: {"version": "4.0.0"}), bad.version)]),
    Case("stale-lists", [Break(bad.stale("adopted"), bad.lists)], heals=True, sees=("orphaned",)),
)

_OTHER_TRUTHS: Final = (
    Case("restored", sees=("try-ahead", "postdates", "run-deleted"), policy=EAGER),
    Case("other-airflow", sees=("absent",)),
    Case("other-airflow-with-same-ids", sees=("other-pod",)),
    Case("other-airflow-with-same-ids-nameless", sees=("orphaned",), limits={}),
    Case("upgraded", heals=True, sees=("in-use", "reattached", "other-pod"), asks="/state-store/"),
)

QUICK_CASES: Final = (*_CONNECTIONS, *_REFUSALS, *_GARBLED, *_LIES, *_OTHER_TRUTHS)
"""Faults that show at once."""

SLOW_CASES: Final = (
    _everywhere("silent", proxy.silence, "timeout", settings={"timeout": "3s"}),
    Case("slow", [Break(bad.old(2 * FRESHNESS), bad.questions)], sees=("orphaned",)),
)
"""Faults that take the deciding thread's time."""
