"""Stamps each Pod of the KubernetesPodOperator with its Airflow's name and the raw ids of its task instance.

Put it on the PYTHONPATH of the workers and the triggerer (or into $AIRFLOW_HOME/config) as airflow_local_settings.py,
or call this hook from your own. KPO_HEALER_AIRFLOW is the name that this Airflow has in kpo-healer's configuration.
"""

import os

AIRFLOW_NAME = os.environ.get("KPO_HEALER_AIRFLOW", "default")


def pod_mutation_hook(pod):
    """Called with every Pod that Airflow is about to create; those of the Kubernetes executor stay as they are."""
    if (pod.metadata.labels or {}).get("kubernetes_pod_operator") != "True":
        return
    pod.metadata.labels = {**pod.metadata.labels, "kpo-healer.io/airflow": AIRFLOW_NAME}
    pod.metadata.annotations = {**(pod.metadata.annotations or {}), **_raw_ids()}


def _raw_ids():
    """The ids as Airflow has them: labels can't hold all characters, nor more than 63 of them."""
    try:
        from airflow.sdk import get_current_context

        task = get_current_context()["ti"]
        ids = {"dag-id": task.dag_id, "task-id": task.task_id, "run-id": task.run_id, "map-index": task.map_index}
    except Exception:  # noqa: BLE001 - a Pod without them is only harder to find; no task must fail for that
        return {}
    return {f"kpo-healer.io/{name}": str(value) for name, value in ids.items() if value is not None}
