"""Leaves a server alone for as long as it asks for: to one that says Retry-After each question is one too many.

Whoever asks meanwhile is told at once that there is no answer, so that its Pods are kept.
"""

from __future__ import annotations

from healer.clock import boottime
from healer.errors import FailureScope, LeftAloneError, NoAnswerError
from healer.log import get_logger

MAX_RETRY_AFTER = 300.0
"""Seconds that are waited at most: a senseless figure must not end all healing."""

log = get_logger(__name__)


class RetryAfter:
    """Until when one API server is not asked. Safe to use from several threads."""

    def __init__(self, airflow: str) -> None:
        """`airflow` is its name in the configuration, for the log."""
        self._airflow = airflow
        self._until, self._why = 0.0, ""

    def begin(self, why: str, code: str, seconds: float) -> LeftAloneError:
        """Ask nothing more for so long. Return the failure that says so; `why` is what the server has answered."""
        seconds = min(seconds, MAX_RETRY_AFTER)
        paused = boottime() < self._until
        self._until = max(self._until, boottime() + seconds)
        self._why = f"{why}; it is asked again {seconds:g} s later, as it wants"
        if not paused:  # several answers may be under way when the first one says so
            log.warning(
                "Airflow wants to be left alone: nothing is asked meanwhile", airflow=self._airflow, why=self._why
            )
        return LeftAloneError(self._why, FailureScope.SERVER, code)

    def check(self) -> None:
        """Raise NoAnswerError while it lasts."""
        if boottime() < self._until:
            raise NoAnswerError(self._why, FailureScope.SERVER, "paused")
