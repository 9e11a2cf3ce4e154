"""The demo from curtain to curtain."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from tests.lab import healer as lab_healer
from tests.lab.airflow import Airflow
from tests.lab.airflow2 import start
from tests.lab.airflow_env import FULL
from tests.lab.demo import page, scenarios, verdict
from tests.lab.demo.cast import NAMESPACE, Fate, Role, Stage, base_ended
from tests.lab.demo.enforce import Enforcement
from tests.lab.demo.narrator import Narrator
from tests.lab.demo.scenarios import Plot
from tests.lab.demo.verdict import Evidence, Row
from tests.lab.door import Door
from tests.lab.healer import Installation, Running
from tests.lab.kube import Cluster
from tests.lab.processes import LabError, free_ports, stop_all, wait_for

REPORT_PASSES: Final = 4
"""Passes that report mode makes once all is due: a second chance to do harm."""

NEAR_MISSES: Final = 3
"""How many of the rules that did not match are shown before the one that did."""

PATIENCE: Final = 45.0
"""Seconds that report mode gets until all that should be due is due."""


def main(*, keep: bool = False, sabotage: str | None = None, version: str = FULL) -> int:
    """Plays the demo; 0 if every Pod met the fate that it should have, 1 if not.

    keep: leave all running until Ctrl-C. sabotage: a fault to run kpo-healer with; the demo must then fail.
    version: of Airflow, one that runs tasks.
    """
    return perform(Story(Path(tempfile.mkdtemp(prefix="kpo-healer-demo-")), sabotage, version), keep=keep)


def perform(story: Story, *, keep: bool = False) -> int:
    """Plays this story, and removes its folder if it went well."""
    root = story.root
    try:
        with ExitStack() as stack:
            story.play(stack, keep=keep)
    except KeyboardInterrupt:
        story.good = None
        raise
    finally:
        if story.good is False:
            story.narrator.note(f"The logs are left in {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return 0 if story.good else 1


@dataclass(frozen=True)
class _Kubeconfig:
    """Where the cluster's will be: Airflow starts beside it, and reads it with the first task."""

    kubeconfig: Path


AUDIT: Final = "30s"
"""Between audits in enforce mode. Much longer than an orphan's grace, and than the first look at a slow Airflow: single
questions lead up to its DELETE, whose place an audit's lists would take."""


class Story:
    """Leads through the acts. good: whether all was as it should be, None as long as that is open."""

    CLUSTER: ClassVar[type[Cluster]] = Cluster
    STAGE: ClassVar[type[Stage]] = Stage
    NODE: ClassVar[str] = "kwok"
    CONTAINERS: ClassVar[str] = "kwok plays the containers"

    def __init__(self, root: Path, sabotage: str | None, version: str = FULL) -> None:
        self.narrator = Narrator()
        self.good: bool | None = None
        self.root = root
        self._sabotage = sabotage
        self._version = version
        (self._port,) = free_ports(1)
        self._env: Mapping[str, str] = {}

    def play(self, stack: ExitStack, *, keep: bool) -> None:
        """All acts. Raises LabError when the stage itself breaks down."""
        if keep:  # whoever stays may look at the page
            self._env = page.variables(self._port)
        stage, plot, installation = self.set_up(stack)
        cluster, airflow = stage.cluster, stage.airflow
        self._look(stage, plot, installation)
        self._report(stage, installation)
        installation.config["auditInterval"] = AUDIT
        door = stack.enter_context(Door(airflow.url))
        mark, since = cluster.audit_mark(), stage.now()
        healer = stack.enter_context(installation.run(mode="enforce", url=door.url, port=self._port))
        enforcement = Enforcement(self.narrator, stage, plot, installation, healer)
        enforcement.play(door)
        self._curtain(stage, enforcement, mark, since)
        if keep:
            self._keep(stage, installation, healer)

    def set_up(self, stack: ExitStack) -> tuple[Stage, Plot, Installation]:
        """The acts before kpo-healer's first: a cluster, an Airflow, Pods left behind, and an installation."""
        cluster, airflow = self._lift_curtain(stack)
        self.good = False
        stage = self.STAGE(cluster, airflow)
        self.narrator.act("Pods are left behind", "the way production does it")
        plot = scenarios.set_up(stage, self.narrator.tell)
        folder = self.root / "healer"
        installation = Installation.make(
            folder, cluster, url=airflow.url, namespaces=[NAMESPACE], sabotage=self._sabotage
        )
        installation.config["findings"] = True
        return stage, plot, installation

    def _lift_curtain(self, stack: ExitStack) -> tuple[Cluster, Airflow]:
        """Both side by side: one of them builds or starts while the other waits for the network."""
        tell = self.narrator.tell
        self.narrator.act("A cluster and an Airflow", f"real ones, beside each other; {self.CONTAINERS}")
        place = self.root / "cluster"
        with ThreadPoolExecutor(2) as pool:
            kubernetes = pool.submit(self.CLUSTER.start, place)
            kubeconfig = _Kubeconfig(place / "admin.kubeconfig")
            beside = pool.submit(start, self._version, self.root / "airflow", kubeconfig, NAMESPACE, env=self._env)
            try:
                cluster = kubernetes.result()
                stack.callback(cluster.stop)
                tell(f"etcd, kube-apiserver and {self.NODE} are up: {cluster.url}")
                airflow = beside.result()
                stack.callback(airflow.stop)
                tell(f"Airflow {airflow.version} is up, with scheduler and triggerer: {airflow.url}")
            except BaseException:  # Ctrl-C too: the other thread would go on for minutes
                stop_all()
                raise
        return cluster, airflow

    def _look(self, stage: Stage, plot: Plot, installation: Installation) -> None:
        tell, show = self.narrator.tell, self.narrator.show
        self.narrator.act("kpo-healer looks", "it asks Airflow about the Pods and changes nothing")
        self.wait_until_ended(stage)
        told = installation.ask("scan")
        tell("$ kpo-healer scan")
        show(told.out)
        self.narrator.claim("scan found something and says so by its exit code 1", told.code == 1)
        for role in (plot.dead, plot.adopted_role):
            tell(f"$ kpo-healer explain {NAMESPACE}/{role.name}     ({role.story})")
            show(_shortened(installation.ask("explain", f"{NAMESPACE}/{role.name}").out))
        found = installation.findings().get(plot.adopted_role.uid, {"reason": "missing"})
        is_adoptable = found["reason"] == "adoptable"
        self.narrator.claim("the Pod of a task between two tries is adoptable, so it is kept", is_adoptable)

    def wait_until_ended(self, stage: Stage) -> None:
        """Until the work of the Pod that its sidecar keeps has ended: that is when its retention begins."""
        role = next(role for role in stage.cast if role.reason == "finished")

        def ended() -> float | None:
            return base_ended(stage.cluster.get_pod(NAMESPACE, role.name))

        role.began = wait_for(ended, what="the end of the base container")

    def _report(self, stage: Stage, installation: Installation) -> None:
        claim = self.narrator.claim
        self.narrator.act("kpo-healer in report mode", "all that enforce mode does, except the DELETE")
        due = sum(1 for role in stage.cast if role.reason in {"orphaned", "superseded", "finished"})
        before, mark = stage.uids(), stage.cluster.audit_mark()
        with installation.run(mode="report") as healer:
            seen = self._withheld(healer, due)
            self.narrator.tell(f"{seen} Pods are due, proven, and withheld because this is report mode")
            healer.wait_passes(REPORT_PASSES, timeout=240)
            code = healer.stop()
        writes = [*lab_healer.deletes(stage.cluster, mark), *lab_healer.other_writes(stage.cluster, mark)]
        claim(f"in report mode {due} Pods are due and withheld (they were {seen})", seen == due)
        claim(f"in report mode none of the {len(before)} Pods vanished", stage.uids() == before)
        claim("in report mode the API server saw no write to any Pod", not writes)
        claim(f"kpo-healer ends with 0 when it is asked to stop ({code})", code == 0)

    def _withheld(self, healer: Running, wanted: int) -> int:
        """How many Pods are withheld, as soon as these are as many as they should be, or no more come."""

        def withheld() -> int:
            return int(healer.metric("withheld", why="report-mode"))

        with suppress(LabError):  # the caller sees by the number that it was too short
            wait_for(lambda: withheld() == wanted, timeout=PATIENCE, what="Pods withheld", interval=0.2)
        return withheld()

    def _curtain(self, stage: Stage, enforcement: Enforcement, mark: int, since: float) -> None:
        self.narrator.act(
            "Every Pod of this story",
            "what should have become of it, what did, and why",
        )
        cluster, claim = stage.cluster, self.narrator.claim
        events = lab_healer.deletes(cluster, mark)
        evidence = Evidence(stage.uids(), events, enforcement.reasons(), since)
        rows = [verdict.judge(role, evidence) for role in stage.cast]
        good = sum(row.good for row in rows)
        claim(f"{good} of {len(rows)} Pods met the fate that they should have", good == len(rows))
        sent = sum(event.code == 200 for event in events)
        healed = sum(role.should is Fate.HEALED for role in stage.cast)
        claim(f"the API server's audit log has {healed} deletions by kpo-healer (there were {sent})", sent == healed)
        claim("each of them hit a Pod that should go", not verdict.unaccounted(events, stage.cast))
        claim("each DELETE named the uid and the version of the Pod that was judged", not verdict.careless(events))
        refused = [event.name for event in events if event.code == 409]
        name_taken = [role.name for role in stage.cast if role.should is Fate.GOES and role.name in refused]
        claim("the one for the Pod whose name was taken was refused by the API server", name_taken == refused != [])
        claim(
            "no finished or kept Pod went before its retention was over", not verdict.hasty(rows, lab_healer.RETENTION)
        )
        claim("kpo-healer wrote nothing else to any Pod", not lab_healer.other_writes(cluster, mark))
        self.bear_witness(stage, rows)
        self.good = all(made.good for made in self.narrator.claims)
        self.narrator.end(rows)
        verdict_ = "as it should be" if self.good else "NOT as it should be"
        self.narrator.tell(f"all is {verdict_}", style="bold green" if self.good else "bold red")

    def bear_witness(self, stage: Stage, rows: Sequence[Row]) -> None:
        """What else is known of the Pods' ends, to be claimed; kwok knows no more than the API server."""

    def _keep(self, stage: Stage, installation: Installation, healer: Running) -> None:
        cli = f"--config {installation.config_file} --kubeconfig {installation.kubeconfig}"
        running: Role = next(role for role in stage.cast if role.reason == "in-use")
        self.narrator.act("All is left running", "look around; Ctrl-C ends it")
        healed = sum(line["result"] == "deleted" for line in healer.deletions())
        address = page.where_it_is(stage.airflow)
        if address is not None:
            self.narrator.tell(page.what_it_shows(stage.airflow, healed=healed))
        for line in (
            f"export KUBECONFIG={stage.cluster.kubeconfig}",
            f"kubectl get pods -n {NAMESPACE} -L dag_id,run_id,map_index,try_number   (if you have kubectl)",
            f"Orphaned Pods: {address or 'their page is in Airflow 3.1.1 and later'}",
            f"Airflow: {stage.airflow.url}   user admin, password admin",
            f"metrics: {healer.url}/metrics   also /healthz and /readyz",
            f"log of kpo-healer, in enforce mode: {healer.log}",
            f".venv/bin/kpo-healer scan --all {cli}",
            f".venv/bin/kpo-healer explain {NAMESPACE}/{running.name} {cli}",
            f".venv/bin/kpo-healer check {cli}",
        ):
            self.narrator.note(f"  {line}")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def _shortened(explanation: str) -> str:
    """Without most of the rules that did not match."""
    lines = explanation.splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("no ")]
    hidden = set(rules[:-NEAR_MISSES])
    gap = f"     … {len(hidden)} rules …" if hidden else ""
    return "\n".join(gap if n == rules[0] else line for n, line in enumerate(lines) if n not in hidden - {rules[0]})
