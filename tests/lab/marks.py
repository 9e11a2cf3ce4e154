"""What people and programs write on Pods, and what follows: one table for the healer and for the API server's guard."""

from __future__ import annotations

from typing import Any

PROTECT: list[tuple[str, bool]] = [
    *((value, True) for value in ("true", "True", "yes", "on", "1", "enabled", "keep", "2", "disabled", "no!", "0.0")),
    *((value, True) for value in ("until friday", "\N{NO-BREAK SPACE}false", "fal\N{LATIN SMALL LETTER LONG S}e")),
    *((value, False) for value in ("", " ", "false", "False", "FALSE", "no", "No", "off", "OFF", "0", " false ")),
    *((value, False) for value in ("\tno\n", "\r\n", "\f0")),
]
"""Values of the annotation `kpo-healer.io/protect`, and whether they protect."""

_KPO = {
    "kubernetes_pod_operator": "True",
    "dag_id": "d",
    "task_id": "t",
    "run_id": "r",
    "try_number": "1",
    "airflow_version": "3.3.2",
    "airflow_kpo_in_cluster": "True",
}
_WORKER = {
    "dag_id": "d",
    "task_id": "t",
    "run_id": "r",
    "try_number": "1",
    "airflow_version": "3.3.2",
    "kubernetes_executor": "True",
    "airflow-worker": "42",
}

ON_OPERATORS_PODS: dict[str, dict[str, str]] = {
    "nothing": {},
    "a hook that tells them from workers": {"kubernetes_executor": "False"},
    "the same in lower case": {"kubernetes_executor": "false"},
    "the chart of Airflow": {"tier": "airflow", "component": "worker", "release": "airflow", "chart": "airflow-1.19.0"},
    "recommended labels": {"app.kubernetes.io/name": "airflow", "app.kubernetes.io/managed-by": "Helm"},
    "Astro": {"astronomer.io/platform": "airflow", "workspace": "w", "release": "r", "dag_id": "d"},
    "Composer": {"composer_environment": "e", "goog-composer-location": "europe-west1", "run": "airflow-worker"},
    "MWAA on EKS": {"eks.amazonaws.com/fargate-profile": "airflow"},
    "Istio": {"security.istio.io/tlsMode": "istio", "service.istio.io/canonical-name": "airflow-worker"},
    "Linkerd": {"linkerd.io/control-plane-ns": "linkerd", "linkerd.io/proxy-deployment": "x"},
    "Argo CD": {"argocd.argoproj.io/instance": "airflow", "app.kubernetes.io/instance": "airflow"},
    "Datadog": {"tags.datadoghq.com/env": "prod", "tags.datadoghq.com/service": "airflow"},
    "Vault": {"vault.hashicorp.com/agent-inject-status": "injected"},
    "Kueue": {"kueue.x-k8s.io/queue-name": "team", "kueue.x-k8s.io/managed": "true"},
    "Azure": {"azure.workload.identity/use": "true"},
    "the operator, through with it": {"already_checked": "True"},
    "a mapped task": {"map_index": "3"},
    "labels of users": {"airflow-workers": "x", "kubernetes-executor": "True", "worker": "1", "spark": "True"},
}
"""What charts, hooks and webhooks write beside the operator's own labels: none of it hides a Pod."""

OTHERS: dict[str, dict[str, str]] = {
    "a worker of the executor": _WORKER,
    "a worker that is done": {**_WORKER, "airflow_executor_done": "True"},
    "a worker that a hook marked": {**_WORKER, "kubernetes_pod_operator": "True"},
    "the same without its executor's mark": {**_KPO, "airflow-worker": "42"},
    "an executor's mark alone": {**_KPO, "kubernetes_executor": "True"},
    "a driver of Spark": {**_KPO, "spark_kubernetes_operator": "True"},
    "a driver of Spark as it is": {"dag_id": "d", "task_id": "t", "spark_kubernetes_operator": "True"},
    "a scheduler": {"tier": "airflow", "component": "scheduler", "release": "airflow"},
    "labels by somebody else": {"dag_id": "d", "task_id": "t", "run_id": "r", "try_number": "1"},
    "another truth": {**_KPO, "kubernetes_pod_operator": "true"},
    "a denial": {**_KPO, "kubernetes_pod_operator": "False"},
    "none at all": {},
}
"""Pods that are none of the operator's, and so are never seen."""

SELECTED: list[Any] = [
    *(({**_KPO, **more}, True) for more in ON_OPERATORS_PODS.values()),
    *((labels, False) for labels in OTHERS.values()),
]
"""Labels, and whether the selector finds a Pod that has them."""
