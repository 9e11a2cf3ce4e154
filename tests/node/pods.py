"""Pods for the real node, and what their status says."""

from __future__ import annotations

import uuid
from typing import Any

from tests.lab.kube import Cluster
from tests.node.images import WORK

Json = Any


def container(work: str, *, name: str = "base", run: str | None = None, **more: Json) -> Json:
    """A container that does the work (see images.py)."""
    return {
        "name": name,
        "image": WORK,
        "command": ["python", "-m", "etl.run"],
        "env": [{"name": "RUN", "value": run or work}],
        **more,
    }


def start(cluster: Cluster, namespace: str, work: str, *, grace: int = 5, **spec: Json) -> str:
    """A Pod that does the work (see images.py); its name, which ends its `RUN` too."""
    name = f"{work}-{uuid.uuid4().hex[:8]}"
    body = {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "containers": [container(work, run=f"{work}.{name}")],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": grace,
            **spec,
        },
    }
    cluster.create_pod(body)
    return name


def base(pod: Json) -> Json:
    """The status of the container `base`; an empty one where the Pod has none."""
    found = pod["status"].get("containerStatuses", ())
    return next((one for one in found if one["name"] == "base"), {})


def reason_of(pod: Json) -> str:
    """The Pod's own reason, else that of its container `base`."""
    state = base(pod).get("state", {})
    ended, waiting = state.get("terminated", {}), state.get("waiting", {})
    return str(pod["status"].get("reason") or ended.get("reason") or waiting.get("reason") or "")


def terminated(pod: Json) -> Json:
    """How its container `base` ended."""
    return base(pod)["state"]["terminated"]
