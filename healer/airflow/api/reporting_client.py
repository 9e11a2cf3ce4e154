"""A client that also tells why a question was not answered, in the sentence that `check` has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from healer.airflow.api.client import AirflowClient
from healer.airflow.api.dialect import Ask
from healer.airflow.api.dialects import Version
from healer.airflow.api.reply import AirflowReply
from healer.airflow.api.transport import ObserveCall
from healer.config import AirflowConfig
from healer.errors import NoAnswerError

T = TypeVar("T")

Failed = Callable[[NoAnswerError], None]
"""Hears of a failure, in the thread that has asked."""


def untold(_failure: NoAnswerError) -> None:
    """Tell nobody."""


class ReportingClient(AirflowClient):
    """Asks one API server, and tells why a question was not answered. Safe to use from several threads."""

    def __init__(self, config: AirflowConfig, observe: ObserveCall, failed: Failed) -> None:
        super().__init__(config, observe)
        self._failed = failed

    def ask(self, question: Ask[T]) -> AirflowReply[T]:
        """Ask as any client does."""
        with self._telling():
            return super().ask(question)

    def require_ok(self, reply: AirflowReply[T]) -> AirflowReply[T]:
        """Take a reply as any client does."""
        with self._telling():
            return super().require_ok(reply)

    def ask_version(self) -> Version:
        """Ask for the version as any client does."""
        with self._telling():
            return super().ask_version()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except NoAnswerError as failure:
            self._failed(failure)
            raise
