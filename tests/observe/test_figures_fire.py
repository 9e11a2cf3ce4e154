"""Alerts that no fault of an Airflow's brings about fire at a real Prometheus, each for its installation and no other.

Their figures come of the healer's own `Metrics`: what real healers make of these is what `test_scraped`,
`test_alerts_fire` and `test_upgrade_seen` show. The rules are the chart's; only their patience is shorter.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct

from healer.config import Mode
from healer.model import Reason, Withheld
from tests.lab.processes import LabError, Process, free_ports, wait_for
from tests.lab.prometheus import Prometheus
from tests.observe import queries
from tests.observe.replica import Replica, served

PATIENCE: Final = queries.FIRING_PATIENCE

ROOT: Final = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(1800)

NAME: Final = "prod"
"""The Airflow of each replica."""


def without_leader(replica: Replica, _: int) -> None:
    replica.leads = False


def stale(replica: Replica, _: int) -> None:
    replica.metrics.pass_done(NAME, 0.5, time.time() - 4 * 60)


def of_another_installation(replica: Replica, _: int) -> None:
    replica.metrics.lease_conflict(True)


def unknown(replica: Replica, _: int) -> None:
    replica.metrics.kept_longest(NAME, {Reason.AIRFLOW_UNKNOWN: 3601.0})


def ambiguous(replica: Replica, _: int) -> None:
    replica.metrics.kept_longest(NAME, {Reason.LABELS_AMBIGUOUS: 86401.0})


def aside(replica: Replica, _: int) -> None:
    replica.metrics.set_aside(NAME, 1)


def refuted(replica: Replica, _: int) -> None:
    replica.metrics.ownership_refuted(NAME, 1)


def withheld(replica: Replica, _: int) -> None:
    replica.metrics.withheld_longest(NAME, {Withheld.OWNERSHIP: 86401.0})


def behind(replica: Replica, _: int) -> None:
    replica.metrics.withheld(NAME, {Withheld.RATE: 1})


def growing(replica: Replica, turn: int) -> None:
    replica.metrics.withheld(NAME, {Withheld.REPORT_MODE: 2 ** min(turn, 500)})


def watching_anew(replica: Replica, turn: int) -> None:
    replica.metrics.watch_restarts(6 * turn)


FIGURES: Final[dict[str, Callable[[Replica, int], None]]] = {
    "KpoHealerNoLeader": without_leader,
    "KpoHealerPassesStale": stale,
    "KpoHealerLeaseConflict": of_another_installation,
    "KpoHealerAirflowUnknownLasting": unknown,
    "KpoHealerLabelsAmbiguousLasting": ambiguous,
    "KpoHealerSetAside": aside,
    "KpoHealerOwnershipRefuted": refuted,
    "KpoHealerWithheldLasting": withheld,
    "KpoHealerBehind": behind,
    "KpoHealerOrphansGrowing": growing,
    "KpoHealerWatchRestarts": watching_anew,
}
"""How its figure becomes wrong, by the alert: of a replica, in the so-manieth second."""

OTHERS: Final = {"KpoHealerRestarts", "KpoHealerDown"}
"""What a process shows that is started again and again, and none at all."""


class Observed(Struct, frozen=True):
    """Prometheus, the replicas by the alert that is to fire for them, and the process."""

    prometheus: Prometheus
    replicas: dict[str, Replica]
    restarted: Restarted
    stop: Callable[[], None]

    def fired(self) -> set[tuple[str, str]]:
        return {(alert, labels.get("namespace", "")) for alert, labels in self.prometheus.firing()}


class Restarted:
    """A replica as a process; each start is one more at the old address."""

    def __init__(self, folder: Path) -> None:
        (self._port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self._log, self._running = folder / "replica.log", False
        self._process = self._made()

    def _made(self) -> Process:
        command = [sys.executable, "-m", "tests.observe.replica", str(self._port)]
        return Process("replica", command, self._log, cwd=ROOT)

    def start(self) -> None:
        """In place of the one before."""
        self.stop()
        self._process, self._running = self._made(), True
        self._process.start()

    def stop(self) -> None:
        if self._running:
            self._process.stop()
            self._running = False


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("figures")
    with ExitStack() as stack:
        doors = stack.enter_context(ExitStack())
        replicas = {alert: Replica(NAME, Mode.REPORT, leads=True) for alert in (*FIGURES, "nothing")}
        labels = {doors.enter_context(served(replica)): {"namespace": alert} for alert, replica in replicas.items()}
        restarted = Restarted(folder)
        doors.callback(restarted.stop)
        restarted.start()
        labels[restarted.url] = {"namespace": "KpoHealerRestarts"}
        rules = queries.impatient(folder / "alerts.yaml")
        made = stack.enter_context(Prometheus.start_with(folder / "prometheus", labels, rules=rules))
        yield Observed(made, replicas, restarted, doors.close)


def test_each_figure_makes_its_alert_fire_and_no_other_one(observed: Observed) -> None:
    """Without it none fires. All that has fired counts: an alert that looks back may be over before the next begins."""
    prometheus, replicas = observed.prometheus, observed.replicas

    def all_well() -> bool:
        for replica in replicas.values():
            replica.be_well()
        return len(prometheus.query("kpo_healer_leader")) == len(replicas) + 1 and not prometheus.alerts()

    wait_for(all_well, timeout=PATIENCE, what="no alert while all is well", interval=0.5)
    began, fired, seen = time.monotonic(), set[tuple[str, str]](), list[float]()
    expected = {(alert, alert) for alert in (*FIGURES, "KpoHealerRestarts")}

    def all_fired() -> bool:
        for alert, replica in replicas.items():
            replica.be_well()
            if alert in FIGURES:
                FIGURES[alert](replica, int(time.monotonic() - began))
        started = prometheus.query('process_start_time_seconds{namespace="KpoHealerRestarts"}')
        if started and started[-1] not in seen and len(seen) < 6:
            seen.append(started[-1])
            observed.restarted.start()
        fired.update(observed.fired())
        return fired >= expected

    with suppress(LabError):  # what has fired by then says more
        wait_for(all_fired, timeout=PATIENCE, interval=0.5)
    assert fired == expected


def test_that_none_is_scraped_any_more_is_told_too(observed: Observed) -> None:
    observed.stop()
    wait_for(lambda: ("KpoHealerDown", "") in observed.fired(), timeout=PATIENCE, what="KpoHealerDown")
    assert observed.prometheus.unhealthy_rules() == {}
