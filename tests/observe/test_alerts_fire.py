"""Each way of being left blind makes its alert fire at a real Prometheus, and no other one; it ends with the fault.

Seven healers side by side, each beside an Airflow of its own that is well until the fault begins. The rules are the
chart's; only their patience is shorter, as `prometheusRule.overrides` may set it.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab.healer import ACCOUNT, Installation, Running
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import LabError, wait_for
from tests.lab.prometheus import Prometheus
from tests.observe import queries
from tests.unit import airflow_fake as af

PATIENCE: Final = queries.FIRING_PATIENCE

LOOK: Final = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}

pytestmark = pytest.mark.timeout(1800)


def well(_: af.Asked) -> None:
    """Leave the answer to the Airflow."""


def wrong_password(asked: af.Asked) -> af.Reply | None:
    if asked.path.endswith("/version"):
        return None
    return af.error(401, "Invalid credentials" if asked.path == "/auth/token" else "Token Expired")


def expired_token(asked: af.Asked) -> af.Reply | None:
    return None if asked.path.endswith("/version") else af.error(401, "Token Expired")


def missing_right(asked: af.Asked) -> af.Reply | None:
    return af.error(403, "Forbidden") if "/taskInstances" in asked.path else None


def gate_in_front(_: af.Asked) -> af.Reply:
    return af.Reply(302, b"<html>", {"Location": "https://login.example.com/", "Content-Type": "text/html"})


def no_answer(_: af.Asked) -> af.Reply:
    return af.Reply(fault="reset")


def ending(seconds: float) -> str:
    """A token that says that it ends so long from now."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + seconds}).encode()).decode()
    return f"e30.{claims.rstrip('=')}.sig"


Fault = Callable[[af.Asked], af.Reply | None]

FAULTS: Final[dict[str, tuple[Fault, set[str]]]] = {
    "wrong-password": (wrong_password, {"KpoHealerAirflowLoginRefused"}),
    "expired-token": (expired_token, {"KpoHealerAirflowLoginRefused"}),
    "missing-right": (missing_right, {"KpoHealerAirflowRightMissing", "KpoHealerAirflowUnreachable"}),
    "gate-in-front": (gate_in_front, {"KpoHealerAirflowUnreachable"}),
    "no-answer": (no_answer, {"KpoHealerAirflowUnreachable"}),
    # Its new token is one that ends within a day: nothing else is wrong yet.
    "ending-token": (well, {"KpoHealerCredentialExpires"}),
    "failing-program": (expired_token, {"KpoHealerCredentialRenewalFailing", "KpoHealerAirflowLoginRefused"}),
}
"""What is wrong, and what fires. A right that is missing for every question leaves nothing answered, too."""

MAY_FOLLOW: Final = {"wrong-password": {"KpoHealerCredentialRenewalFailing"}}
"""What fires minutes later, where the test lasts as long: a login that is refused is a renewal that fails."""

OWN_WORDS: Final = set(FAULTS) - {"ending-token", "failing-program"}
"""Faults that the log tells in one sentence: nothing is kept for the first yet, the other is told in two steps."""


@dataclass(frozen=True)
class Observed:
    """What runs: the Airflows and the healers by the name of their fault."""

    airflows: dict[str, af.FakeAirflow]
    healers: dict[str, Running]
    prometheus: Prometheus
    folder: Path

    def firing(self, name: str) -> set[str]:
        return {alert for alert, labels in self.prometheus.firing() if labels.get("airflow") == name}

    def said(self, name: str) -> list[str]:
        lines = self.healers[name].lines()
        return [line["why"] for line in lines if line.get("airflow") == name and "meanwhile" in line["message"]]


@pytest.fixture(scope="module")
def observed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("blind")
    with ExitStack() as stack:
        airflows = {name: stack.enter_context(af.serving()) for name in FAULTS}
        healers = {name: installed(cluster, folder / name, name, fake) for name, fake in airflows.items()}
        for healer in healers.values():
            healer.launch()
            stack.enter_context(healer)
        for healer in healers.values():
            healer.wait_ready()
        # Each an installation of its own: as replicas of one they would differ.
        targets = {healer.url: {"namespace": name} for name, healer in healers.items()}
        made = Prometheus.start_with(folder / "prometheus", targets, rules=queries.impatient(folder / "alerts.yaml"))
        yield Observed(airflows, healers, stack.enter_context(made), folder)


def installed(cluster: Cluster, folder: Path, name: str, fake: af.FakeAirflow) -> Running:
    """A lone healer in report mode, with a Pod to ask about in each pass."""
    space = cluster.namespace(f"blind-{name}")
    made = Installation.make(folder, cluster, url=fake.url, namespaces=[space])
    cluster.service_account(ACCOUNT, ACCOUNT, [LOOK], namespaces=[space])
    login: dict[str, Any] = {"username": "viewer", "password": fake.password}
    if name == "expired-token":
        login = {"token": "of-the-test"}
    if name == "ending-token":
        login = {"tokenFile": str(af.put(folder / "token", ending(30 * 86400)))}
    if name == "failing-program":
        (folder / "fails").unlink(missing_ok=True)
        login = {"exec": {"command": ["/bin/sh", "-c", f"test ! -e {folder}/fails && echo of-the-test"]}}
    for key in ("username", "passwordFile"):
        del made.config["airflows"][0][key]
    made.config["airflows"][0] |= {"name": name, "timeout": "2s", **login}
    made.config["leaderElection"] = {}
    cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id=af.RUN, namespace=space))
    fake.rows = [af.row(rendered_fields={"namespace": space, "base_container_name": "base"})]
    return made.run(mode="report")


def test_each_fault_makes_its_alert_fire_and_no_other_one(observed: Observed) -> None:
    """Without the fault none fires, at its end it stops, and what the log says then is no other fault's."""
    prometheus = observed.prometheus
    asked = "sum(kpo_healer_airflow_up * kpo_healer_airflow_login_ok)"
    wait_for(lambda: prometheus.query(asked) == [len(FAULTS)], timeout=PATIENCE, what="all to be well")
    wait_for(lambda: not prometheus.alerts(), timeout=PATIENCE, what="no alert while all is well")

    for name, (fault, _) in FAULTS.items():
        observed.airflows[name].intercept = fault
    af.put(observed.folder / "ending-token/token", ending(3600))
    af.put(observed.folder / "failing-program/fails", "")
    expected = {name: alerts for name, (_, alerts) in FAULTS.items()}
    # Not all at one moment: what looks back ten seconds comes and goes with the questions that a healer still asks.
    fired: dict[str, set[str]] = {name: set() for name in FAULTS}

    def all_fired() -> bool:
        for name in FAULTS:
            fired[name] |= observed.firing(name)
        return all(fired[name] >= alerts for name, alerts in expected.items())

    with suppress(LabError):  # what has fired by then says more
        wait_for(all_fired, timeout=PATIENCE, interval=0.5)
    assert {name: alerts - MAY_FOLLOW.get(name, set()) for name, alerts in fired.items()} == expected
    assert {alert for alert, _ in prometheus.firing()} <= set().union(*expected.values())
    said = {name: observed.said(name) for name in OWN_WORDS}
    assert [len(texts) for texts in said.values()] == [1] * len(said), said
    assert len({texts[0] for texts in said.values()}) == len(said), said
    assert observed.said("ending-token") == []

    for fake in observed.airflows.values():
        fake.intercept = well
    af.put(observed.folder / "ending-token/token", ending(30 * 86400))
    (observed.folder / "failing-program/fails").unlink()
    wait_for(lambda: not prometheus.alerts(), timeout=PATIENCE, what="no alert when all is well again")
    assert prometheus.unhealthy_rules() == {}
