"""What Prometheus scrapes of a replica: the healer's own `Metrics`, with whatever figures a test gives it.

`python -m tests.observe.replica PORT` is one as a process of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from msgspec import Struct

from healer.config import AirflowConfig, Config, Mode
from healer.insights.notices import Notice
from healer.insights.resource_usage import Amounts
from healer.model import Action, Reason, Withheld
from healer.telemetry.metrics import Metrics
from tests.lab.serving import in_a_thread


class Call(Struct, frozen=True):
    """One request to Airflow."""

    call: str
    code: str
    seconds: float


class Replica:
    """What Prometheus scrapes of one replica; `restart` is a new process at the old address."""

    def __init__(self, airflow: str, mode: Mode, *, leads: bool) -> None:
        self._airflow, self._mode, self.leads = airflow, mode, leads
        self.restart()

    def restart(self) -> None:
        """Count from 0."""
        entry: dict[str, Any] = {"name": self._airflow, "namespaces": ["a"], "url": "http://h", "token": "t"}
        config = Config(airflows=(AirflowConfig.model_validate(entry),))
        self.metrics = Metrics(config, is_leader=lambda: self.leads)
        self.live(0)

    def be_well(self) -> None:
        """Show a replica that has just made a pass, and nothing that is wrong."""
        shown, name = self.metrics, self._airflow
        shown.mode(name, self._mode)
        shown.airflow_up(name, True)
        shown.airflow_success(name, time.time())
        shown.namespace_readable("a", True)
        shown.pass_done(name, 0.5, time.time())

    def live(self, deletions: int) -> None:
        """Show some of everything, and count so many deletions."""
        shown, name = self.metrics, self._airflow
        amounts = Amounts(2.0, 4e9, {"nvidia.com/gpu": 1.0})
        shown.mode(name, self._mode)
        shown.pods(name, {Reason.ORPHANED: 3, Reason.IN_USE: 5})
        shown.suspects(name, {(Reason.ORPHANED, Action.DELETE): 3})
        shown.withheld(name, {Withheld.NOT_DUE: 3})
        shown.notices(name, dict.fromkeys(Notice, 1))
        shown.held(name, amounts)
        shown.wasted(name, amounts)
        shown.airflow_call(name, Call("list", "200", 0.1))
        shown.airflow_call(name, Call("list", "503", 0.1))
        shown.airflow_up(name, True)
        shown.airflow_success(name, time.time())
        shown.kubernetes_call("list", "200")
        shown.namespace_readable("a", True)
        shown.pass_done(name, 0.5, time.time())
        shown.regret(name, "orphaned")
        for _ in range(deletions):
            shown.deletion(name, "orphaned", "deleted")
            shown.healing_delay(name, 1.0)
            shown.reclaimed(name, amounts)


@contextmanager
def served(replica: Replica, port: int = 0) -> Iterator[str]:
    """Its address as long as the block lasts; port: by default a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = replica.metrics.render(self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    with in_a_thread(ThreadingHTTPServer(("127.0.0.1", port), Handler)) as url:
        yield url


def main(port: int) -> None:
    """Serve until the process is ended."""
    replica = Replica("prod", Mode.REPORT, leads=True)
    with served(replica, port):
        while True:
            replica.be_well()
            time.sleep(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
