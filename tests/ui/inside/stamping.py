"""Prints, as JSON, what Airflow's own call of the policies makes of some Pods."""

import json
import sys
from types import SimpleNamespace

import airflow
from airflow import settings
from airflow.policies import hookimpl

KPO = {"kubernetes_pod_operator": "True", "dag_id": "sales"}
PODS = {
    "kpo": KPO,
    "executor": {"airflow-worker": "7", "kubernetes_pod_operator": "True"},
    "other": {"app": "web"},
    "unlabelled": None,
}


def made(labels):
    pod = SimpleNamespace(metadata=SimpleNamespace(labels=labels, annotations=None))
    settings.pod_mutation_hook(pod)
    return {"labels": pod.metadata.labels, "annotations": pod.metadata.annotations}


class Another:
    """A policy of another package."""

    @hookimpl
    def pod_mutation_hook(self, pod):
        pod.metadata.labels = {**(pod.metadata.labels or {}), "another": "yes"}


if "another" in sys.argv:
    # Airflow 2 keeps its manager of policies elsewhere.
    manager = getattr(settings, "get_policy_plugin_manager", lambda: settings.POLICY_PLUGIN_MANAGER)()
    manager.register(Another())
print("RESULT" + json.dumps({name: made(labels) for name, labels in PODS.items()} | {"version": airflow.__version__}))
