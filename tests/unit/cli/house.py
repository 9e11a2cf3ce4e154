"""What a one-shot command finds, for the tests of those that wait: fakes, and a clock that waiting moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from healer.config import Config
from healer.model import Answer
from tests.unit.fakes import ORPHANED, Clock, FakeAirflow, FakeCluster, an_airflow
from tests.unit.strategies import a_pod


def a_config(**changes: Any) -> Config:
    basics = {"limits": {"breaker": {"maxShare": 1}}, "policy": {"grace": "2m", "minAge": "0s"}}
    return Config(airflows=(an_airflow(**{**basics, **changes}),))


class House:
    """A cluster, an Airflow and the clock; `meanwhile` happens after each wait."""

    AGE: ClassVar[float] = 10_000.0
    """Seconds since a Pod was made."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cluster, self.airflow = FakeCluster(self.clock), FakeAirflow(self.clock)
        self.waits: list[float] = []
        self.meanwhile: Callable[[], Any] = lambda: None

    def add(self, uid: str, answer: Answer = ORPHANED, **changes: Any) -> None:
        pod = a_pod(**{"uid": uid, "name": f"pod-{uid}", "created": self.clock.server - self.AGE, **changes})
        self.cluster.add(pod)
        self.airflow.answers[uid] = answer

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.forward(seconds)
        self.meanwhile()

    @property
    def deleted(self) -> list[str]:
        return [pod.uid for pod, _ in self.cluster.deletes]
