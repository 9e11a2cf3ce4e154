"""`python -m tests.bench.watched_pass FILE run --once --config …`: kpo-healer, and what its healing asks and rests on.

FILE holds, once a pass has ended, how many calls of each kind went to Airflow, and how old the evidence of each DELETE
was when it was looked at for the last time, right before the first byte was sent.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from healer.airflow.api.transport import AirflowTransport
from healer.deletion.pod_deleter import PodDeleter
from healer.reconciler import Reconciler


class Watch:
    """Stands around the healer's own functions, and changes nothing of what they do."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self._calls: Counter[str] = Counter()
        self._ages: dict[str, float] = {}

    def install(self) -> None:
        send, refusal, reconcile = AirflowTransport.send, PodDeleter._refusal, Reconciler.reconcile

        def sent(itself: Any, request: Any, credential: Any) -> Any:
            with self._lock:
                self._calls[request.call] += 1
            return send(itself, request, credential)

        def refused(itself: Any, pod: Any, evidence: Any, is_leader: Any) -> Any:
            self._ages[pod.uid] = itself._clock() - evidence.sent
            return refusal(itself, pod, evidence, is_leader)

        def reconciled(*args: Any) -> None:
            reconcile(*args)
            self._file.write_text(json.dumps({"calls": self._calls, "ages": sorted(self._ages.values())}))

        AirflowTransport.send = sent  # type: ignore[method-assign]
        PodDeleter._refusal = refused  # type: ignore[method-assign]
        Reconciler.reconcile = reconciled  # type: ignore[method-assign]


def main() -> None:
    file, *arguments = sys.argv[1:]
    Watch(Path(file)).install()
    from healer.cli import main as cli

    cli(arguments)


if __name__ == "__main__":
    main()
