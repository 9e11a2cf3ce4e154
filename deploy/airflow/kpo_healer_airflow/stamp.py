"""Stamps each Pod of the KubernetesPodOperator with its Airflow's name and the raw ids of its task instance.

Airflow finds the hook by the entry point `airflow.policy` and calls it beside those of other packages and of the
user's own `airflow_local_settings.py`. Runs on every Python that Airflow 2.10 runs on, so 3.8 is the oldest.
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Any

from airflow.policies import hookimpl

if TYPE_CHECKING:
    from kubernetes.client.models import V1Pod

__all__ = ["airflow_name", "pod_mutation_hook", "stamp"]

_log = logging.getLogger(__name__)

LABEL = "kpo-healer.io/airflow"
PREFIX = "kpo-healer.io/"

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""What Kubernetes accepts as a label's value; it refuses the whole Pod for another one."""


# Last: what a user's own hook makes of the labels is done by then, and the stamp stays.
@hookimpl(trylast=True)
def pod_mutation_hook(pod: V1Pod) -> None:
    """Called by Airflow with every Pod that it is about to create."""
    stamp(pod)


def stamp(pod: V1Pod, name: str | None = None) -> None:
    """Label `pod` with the Airflow's `name` (default: the configured one) and annotate it with its raw ids.

    Only Pods of the KubernetesPodOperator: others, those of the Kubernetes executor too, stay as they are. Never
    raises: no task must fail because of a stamp.
    """
    metadata = pod.metadata
    labels = (metadata and metadata.labels) or {}
    if not metadata or labels.get("kubernetes_pod_operator") != "True" or "airflow-worker" in labels:
        return
    try:
        name = airflow_name() if name is None else name
    except Exception:  # noqa: BLE001 - whatever Airflow makes of its configuration: no task must fail for that
        _log.warning("Pod not stamped: [kpo_healer] airflow can't be read; a %% stands there as %%%%", exc_info=True)
        return
    if not _LABEL_VALUE.fullmatch(name):
        _log.warning("Pod not stamped: %r can't be a label; set [kpo_healer] airflow as kpo-healer calls it", name)
        return
    metadata.labels = {**labels, LABEL: name}
    metadata.annotations = {**(metadata.annotations or {}), **_raw_ids()}


def airflow_name() -> str:
    """Return what kpo-healer's configuration calls this Airflow: KPO_HEALER_AIRFLOW, else `[kpo_healer] airflow`."""
    from airflow.configuration import conf

    name = os.environ.get("KPO_HEALER_AIRFLOW") or conf.get("kpo_healer", "airflow", fallback="")
    return name or "default"


def _raw_ids() -> dict[str, str]:
    """Return the ids as Airflow has them: labels can't hold all characters, nor more than 63 of them."""
    try:
        task = _context()["ti"]
        ids = {"dag-id": task.dag_id, "task-id": task.task_id, "run-id": task.run_id, "map-index": task.map_index}
    except Exception:  # noqa: BLE001 - a Pod without them is only harder to find; no task must fail for that
        _log.debug("no task instance to take the raw ids from", exc_info=True)
        return {}
    return {PREFIX + name: str(value) for name, value in ids.items() if value is not None}


def _context() -> Any:
    """Return the context of the task that runs in this process; Airflow 2 keeps it in another place."""
    try:
        from airflow.sdk import get_current_context
    except ImportError:
        from airflow.operators.python import get_current_context
    return get_current_context()
