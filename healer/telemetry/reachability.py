"""Whether one Airflow answers and accepts the login: told by metrics at once, and once in the log when it changes.

Only an answer that needed the login counts: the version is told to everybody, also while a password is wrong.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum

from healer.airflow import Call
from healer.errors import FailureScope, LoginRefusedError, NoAnswerError
from healer.log import get_logger
from healer.telemetry.metrics import Metrics

log = get_logger(__name__)

LACKS_A_RIGHT = "right"


class ReachState(Enum):
    """How an Airflow was found in a pass; the value is what the log says."""

    ANSWERS = "Airflow answers"
    SILENT = "Airflow gives no answer that can be used: its Pods are kept meanwhile"
    REFUSES = "Airflow refuses the login: its Pods are kept meanwhile"
    LACKS = "Airflow refuses a question for lack of a right: Pods that it is about are kept meanwhile"


class Reachability:
    """What the requests of one Airflow tell of it. `observe` and `failed` may be called from any thread."""

    def __init__(self, airflow: str, metrics: Metrics, wall: Callable[[], float] = time.time) -> None:
        """Know nothing yet; `wall` tells epoch seconds, for metrics only."""
        self._airflow, self._metrics, self._wall = airflow, metrics, wall
        self._lock = threading.Lock()
        self._told: set[tuple[ReachState, str]] = set()
        self._standing: ReachState | None = None
        self._answers = 0
        self._failures: list[NoAnswerError] = []
        self._last: NoAnswerError | None = None
        """The failure that spoilt all questions after it, None where one was answered since."""
        self._lacking: NoAnswerError | None = None
        self._problem: str | None = None

    @property
    def asked(self) -> bool:
        """Whether anything that needs the login was asked since the last pass ended."""
        return bool(self._answers or self._failures)

    @property
    def problem(self) -> str | None:
        """Why this Airflow's answers are missing, as last told; None where they are not."""
        return self._problem

    def observe(self, call: Call) -> None:
        """Take note of a request that has ended."""
        self._metrics.airflow_call(self._airflow, call)
        if not call.authenticated:
            return
        with self._lock:
            self._answers += 1
            self._last = None
        self._metrics.airflow_success(self._airflow, self._wall())
        self._metrics.airflow_up(self._airflow, True)
        self._metrics.airflow_login(self._airflow, True)

    def failed(self, failure: NoAnswerError) -> None:
        """Take note of a question that was not answered."""
        refused = isinstance(failure, LoginRefusedError)
        with self._lock:
            self._failures = [*self._failures[-9:], failure]
            if failure.scope is FailureScope.SERVER:
                self._last = failure
            elif failure.kind == LACKS_A_RIGHT:
                self._lacking = failure
        if failure.scope is FailureScope.SERVER:
            self._metrics.airflow_up(self._airflow, False)
        if refused or failure.kind == LACKS_A_RIGHT:
            self._metrics.airflow_login(self._airflow, not refused)

    def pass_done(self, *, audit: bool) -> None:
        """Tell what has changed. `audit`: all was asked, so that a right that lacked and was not missed is there."""
        with self._lock:
            status, why = self._judge()
            if status is ReachState.ANSWERS and self._standing is ReachState.LACKS and not audit:
                status = None
            answers, self._answers, self._failures, self._lacking = self._answers, 0, [], None
        if status is not None and status is not ReachState.ANSWERS and not answers:
            self._metrics.airflow_up(self._airflow, False)
        if status is not None:
            self._tell(status, why)

    def _judge(self) -> tuple[ReachState | None, NoAnswerError | None]:
        if self._last is not None:
            refused = isinstance(self._last, LoginRefusedError)
            return ReachState.REFUSES if refused else ReachState.SILENT, self._last
        if self._lacking is not None:
            return ReachState.LACKS, self._lacking
        if self._answers:
            return ReachState.ANSWERS, None
        return (ReachState.SILENT, self._failures[-1]) if self._failures else (None, None)

    def _tell(self, status: ReachState, why: NoAnswerError | None) -> None:
        """Say it once: the same trouble again only after it was over."""
        before, self._standing = self._standing, status
        self._problem = None if why is None or status is ReachState.LACKS else str(why)
        if why is None:
            self._told.clear()
            if before is not ReachState.ANSWERS:
                log.info(status.value if before is None else f"{status.value} again", airflow=self._airflow)
            return
        key = status, why.code
        if key not in self._told:
            self._told.add(key)
            log.warning(status.value, airflow=self._airflow, why=str(why))
