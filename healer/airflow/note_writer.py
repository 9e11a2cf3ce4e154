"""Notes in Airflow about what was deleted, written in the background: healing never waits for them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

from healer.airflow import NoteResult
from healer.errors import NoAnswerError
from healer.log import get_logger
from healer.model import Pod, TaskInstance

THREAD_NAME = "notes"
BACKLOG = 1000
"""Notes that may wait; more are dropped, the log has them."""

Write = Callable[[TaskInstance, str], NoteResult]
"""Writes a line on a task instance; raises NoAnswerError."""

log = get_logger(__name__)


class _Note(Struct, frozen=True):
    write: Write
    airflow: str
    pod: Pod
    task: TaskInstance
    text: str


class NoteWriter:
    """Writes notes, one after the other, in a thread that begins with the first one."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._waiting: queue.Queue[_Note | None] = queue.Queue(BACKLOG)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def note(self, write: Write, airflow: str, pod: Pod, task: TaskInstance, text: str) -> None:
        """Have it written soon. Never blocks and never raises."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(_Note(write, airflow, pod, task, text))
        except queue.Full:
            log.warning("a note is dropped: too many are waiting", airflow=airflow, pod=str(pod))

    def stop(self, timeout: float) -> None:
        """Write what is waiting, for at most `timeout` seconds."""
        thread = self._thread
        if thread is None:
            return
        with suppress(queue.Full):  # then it is awake anyway, and what does not fit into the time is lost
            self._waiting.put_nowait(None)
        thread.join(timeout)

    def _run(self) -> None:
        while (note := self._waiting.get()) is not None:
            try:
                result = note.write(note.task, note.text)
            except NoAnswerError as error:
                log.warning("a note could not be written", airflow=note.airflow, pod=str(note.pod), why=str(error))
            except Exception:
                # The rim of this thread: one note that can't be written must not end all others.
                log.warning("a note could not be written", airflow=note.airflow, pod=str(note.pod), exc_info=True)
            else:
                log.info("note", airflow=note.airflow, pod=str(note.pod), uid=note.pod.uid, result=result.value)
