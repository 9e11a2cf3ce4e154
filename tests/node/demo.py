"""`make demo NODE=real`: the demo's story with real containers, whose ends are seen on the machine.

The acts, the cast and the verdict are those of `make demo`. What kwok does at an annotation is done here: work ends
well by a signal, and the owner of a Job's Pod is there, as the controllers would clear away a Pod without it.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

from tests.lab.airflow import Airflow
from tests.lab.demo.cast import NAMESPACE, PATIENCE, Fate, Role, Stage
from tests.lab.demo.story import Story, perform
from tests.lab.demo.verdict import Row
from tests.lab.kube import Cluster
from tests.lab.processes import LabError, say, wait_for
from tests.node.cluster import NodeCluster
from tests.node.images import WORK
from tests.node.node import Exit

Json = Any

BY_HAND: Final = "registry.example.com/data/etl-runner:2026.01.4"
"""The image of the Pods that are made by hand (tests/lab/pods.py), and the Secret that they read."""

PASSWORD: Final = {"metadata": {"name": "warehouse"}, "stringData": {"password": "none"}}


class NodeStage(Stage):
    """The stage with a real node. containers: those of each Pod of the cast, by its uid."""

    def __init__(self, cluster: Cluster, airflow: Airflow) -> None:
        super().__init__(cluster, airflow)
        assert isinstance(cluster, NodeCluster)
        self.node = cluster.node
        self.node.tag(WORK, BY_HAND)
        cluster.request("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", PASSWORD)
        self.containers: dict[str, list[str]] = {}

    def add(self, story: str, pod: Json, should: Fate, reason: str, began: float | None = None) -> Role:
        statuses = pod["status"].get("containerStatuses", ())
        ids = [one["containerID"] for one in statuses if "containerID" in one]
        self.containers[pod["metadata"]["uid"]] = [text.rpartition("/")[2] for text in ids]
        return super().add(story, pod, should, reason, began)

    def make(self, body: Json) -> Json:
        for owner in body["metadata"].get("ownerReferences", ()):
            owner["uid"] = self._job(owner["name"])
        return super().make(body)

    def _job(self, name: str) -> str:
        """A Job that no controller works on; its uid."""
        spec = {"containers": [{"name": "base", "image": WORK}], "restartPolicy": "Never"}
        body = {"metadata": {"name": name}, "spec": {"template": {"spec": spec}}}
        made = self.cluster.request("POST", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", body)
        return str(made["metadata"]["uid"])

    def end_work(self, name: str, *, sidecar: bool = False) -> None:
        """SIGUSR1 for the base container's process; a sidecar beside it runs on, as nobody tells it."""
        pod = self.cluster.get_pod(NAMESPACE, name) or {}
        base = next(one for one in pod["spec"]["containers"] if one["name"] == "base")
        run = next(one["value"] for one in base["env"] if one["name"] == "RUN")
        os.kill(self.node.wait_process(f"RUN={run}", timeout=PATIENCE), signal.SIGUSR1)

    def ends(self, role: Role) -> list[Exit]:
        """How its containers ended, as far as they have."""
        return [end for end in self.node.exits() if end.container in self.containers[role.uid]]


class NodeStory(Story):
    """The story told on it; at its end the machine is asked too."""

    CLUSTER: ClassVar[type[Cluster]] = NodeCluster
    STAGE: ClassVar[type[Stage]] = NodeStage
    NODE: ClassVar[str] = "a kubelet with containerd"
    CONTAINERS: ClassVar[str] = "containers are real"

    def bear_witness(self, stage: Stage, rows: Sequence[Row]) -> None:
        assert isinstance(stage, NodeStage)
        gone = {row.role.uid for row in rows if row.did != Fate.LIVES}
        with suppress(LabError):  # said by what is claimed
            wait_for(lambda: not gone & stage.node.pods_at_work(), timeout=PATIENCE, what="the ends of the processes")
        self.narrator.act("What the machine saw", "the end of each container of a Pod that kpo-healer deleted")
        for row in rows:
            if row.did == Fate.HEALED:
                for end in stage.ends(row.role):
                    self.narrator.tell(f"{row.role.name}: {_told(end, row)}  ({row.role.story})")
        at_work = stage.node.pods_at_work()
        living = [row.role for row in rows if row.did == Fate.LIVES]
        claim = self.narrator.claim
        claim(f"of none of the {len(gone)} Pods that are gone a process runs any more", not gone & at_work)
        claim(
            f"the work of all {len(living)} Pods that live goes on",
            all(role.uid in at_work and not stage.ends(role) for role in living),
        )


def _told(end: Exit, row: Row) -> str:
    seconds = (end.at - dt.datetime.fromtimestamp(row.deleted or 0, dt.UTC)).total_seconds()
    when = f"{seconds:.1f} s after the DELETE" if seconds > 0 else "before the DELETE"
    return f"exit {end.code}, {when}"


def main() -> int:
    # Beside the folder for temporary files, which goes with the node: a story that went badly leaves its logs.
    place = Path(tempfile.gettempdir()).parent
    return perform(NodeStory(Path(tempfile.mkdtemp(prefix="kpo-healer-demo-", dir=place)), None))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        say(f"error: {error}")
        sys.exit(1)
