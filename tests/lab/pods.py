"""Pod bodies as they are found in the field: what KPO creates, and what only looks like it."""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from healer.decision.labels import safe_label

Json = dict[str, Any]
Labels = Mapping[str, str | None]

AIRFLOW_VERSION: Final = "3.3.2"
SIDECAR: Final = "airflow-xcom-sidecar"
XCOM_VOLUME: Final = {"name": "xcom", "mountPath": "/airflow/xcom"}


def kpo_pod(
    *,
    dag_id: str,
    task_id: str,
    run_id: str,
    map_index: int | None = None,
    try_number: int = 1,
    namespace: str = "airflow",
    name: str | None = None,
    labels: Labels | None = None,
    annotations: Mapping[str, str] | None = None,
    owner: Json | None = None,
    containers: Sequence[str] = ("base",),
    restart_policy: str = "Never",
    requests: Mapping[str, str] | None = None,
    checked: bool = False,
    node: str | None = None,
) -> Json:
    """A Pod as KubernetesPodOperator creates it, about 6 kB in a LIST (kwok's status and managedFields included).

    labels: added to, or in place of, those of KPO; None takes one away. owner: an ownerReference. containers: the first
    is the base container; one called `airflow-xcom-sidecar` is KPO's. requests: of the base container. checked: the
    label `already_checked`, which KPO sets on what it is through with. node: bound to it from the start; a node that
    does not exist leaves the Pod Pending.
    """
    task = _task_labels(dag_id, task_id, run_id, map_index, try_number)
    marks = {"kubernetes_pod_operator": "True", "airflow_version": AIRFLOW_VERSION, "airflow_kpo_in_cluster": "True"}
    if checked:
        marks["already_checked"] = "True"
    spec = _spec(containers, restart_policy, requests or {"cpu": "250m", "memory": "512Mi"})
    if node is not None:
        spec["nodeName"] = node
    meta = {"name": name or _name(task_id), "namespace": namespace, "labels": _merged(task | marks, labels)}
    return _pod(meta, spec, annotations, owner)


def job_pod(*, job: str | None = None, labels: Labels | None = None, **task: Any) -> Json:
    """A Pod of KubernetesJobOperator: KPO's labels, those of the Job controller, and the Job as its controller."""
    job = job or _name(task["task_id"])
    uid = str(uuid.uuid4())
    made = {"job-name": job, "batch.kubernetes.io/job-name": job, "controller-uid": uid}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid, "controller": True}
    return kpo_pod(labels={**made, **(labels or {})}, owner={**owner, "blockOwnerDeletion": True}, **task)


def executor_pod(
    *,
    dag_id: str,
    task_id: str,
    run_id: str,
    map_index: int | None = None,
    try_number: int = 1,
    namespace: str = "airflow",
    name: str | None = None,
    labels: Labels | None = None,
) -> Json:
    """A worker of KubernetesExecutor: labels of its task instance, without KPO's mark; raw ids as annotations."""
    task = _task_labels(dag_id, task_id, run_id, map_index, try_number)
    marks = {"kubernetes_executor": "True", "airflow-worker": "42", "airflow_version": AIRFLOW_VERSION}
    raw = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "try_number": str(try_number)}
    meta = {"name": name or _name(task_id), "namespace": namespace, "labels": _merged(task | marks, labels)}
    return _pod(meta, _spec(("base",), "Never", {}), raw, None)


def spark_pod(
    *,
    dag_id: str,
    task_id: str,
    run_id: str,
    try_number: int = 1,
    namespace: str = "airflow",
    name: str | None = None,
    labels: Labels | None = None,
) -> Json:
    """A Spark driver of SparkKubernetesOperator, owned by its SparkApplication."""
    task = _task_labels(dag_id, task_id, run_id, None, try_number)
    marks = {"spark_kubernetes_operator": "True", "spark-role": "driver"}
    owner = {"apiVersion": "sparkoperator.k8s.io/v1beta2", "kind": "SparkApplication", "name": "pi"}
    meta = {"name": name or _name(task_id), "namespace": namespace, "labels": _merged(task | marks, labels)}
    reference = {**owner, "uid": str(uuid.uuid4()), "controller": True}
    return _pod(meta, _spec(("spark-kubernetes-driver",), "Never", {}), None, reference)


def _task_labels(dag_id: str, task_id: str, run_id: str, map_index: int | None, try_number: int) -> dict[str, str]:
    """Source: `_get_ti_pod_labels` of the provider; map_index is written for mapped task instances only."""
    labels = {"dag_id": safe_label(dag_id), "task_id": safe_label(task_id), "run_id": safe_label(run_id)}
    if map_index is not None and map_index >= 0:
        labels["map_index"] = str(map_index)
    return {**labels, "try_number": str(try_number)}


def _merged(made: Mapping[str, str], wanted: Labels | None) -> dict[str, str]:
    return {key: value for key, value in {**made, **(wanted or {})}.items() if value is not None}


def _name(task_id: str) -> str:
    """KPO's default name: the task's slug and a random tail."""
    slug = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in task_id.lower()).strip("-")
    return f"{slug[:50].rstrip('-') or 'pod'}-{''.join(random.choices(string.ascii_lowercase + string.digits, k=8))}"


def _pod(meta: Json, spec: Json, annotations: Mapping[str, str] | None, owner: Json | None) -> Json:
    if annotations:
        meta["annotations"] = dict(annotations)
    if owner:
        meta["ownerReferences"] = [owner]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _spec(containers: Sequence[str], restart_policy: str, requests: Mapping[str, str]) -> Json:
    first, *others = containers
    return {
        "restartPolicy": restart_policy,
        "automountServiceAccountToken": False,
        "containers": [_base(first, requests, xcom=SIDECAR in others), *map(_sidecar, others)],
        "volumes": _volumes(xcom=SIDECAR in others),
        "tolerations": [
            {"key": "dedicated", "operator": "Equal", "value": "batch", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
        ],
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "preference": {
                            "matchExpressions": [{"key": "node-pool", "operator": "In", "values": ["batch", "spot"]}]
                        },
                    }
                ]
            }
        },
        "terminationGracePeriodSeconds": 30,
    }


def _limits(requests: Mapping[str, str]) -> Json:
    """Of memory, and of extended resources, which have no requests without limits."""
    return {resource: amount for resource, amount in requests.items() if resource == "memory" or "/" in resource}


def _base(name: str, requests: Mapping[str, str], *, xcom: bool) -> Json:
    settings = {
        "ENVIRONMENT": "production",
        "LOG_LEVEL": "INFO",
        "DATA_BUCKET": "s3://company-data-lake/curated/daily",
        "WAREHOUSE_HOST": "warehouse.analytics.internal.example.com",
        "AWS_REGION": "eu-central-1",
        "SPARK_CONF_DIR": "/opt/etl/conf",
        "PYTHONUNBUFFERED": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel-collector.observability:4317",
    }
    secret = {"name": "WAREHOUSE_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "warehouse", "key": "password"}}}
    mounts = [
        {"name": "config", "mountPath": "/opt/etl/conf", "readOnly": True},
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "certs", "mountPath": "/etc/ssl/company", "readOnly": True},
    ]
    return {
        "name": name,
        "image": "registry.example.com/data/etl-runner:2026.01.4",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "etl.run"],
        "args": ["--partition", "2026-01-01", "--source", "orders", "--target", "curated.orders_daily"],
        "env": [*({"name": key, "value": value} for key, value in settings.items()), secret],
        "envFrom": [{"configMapRef": {"name": "etl-common", "optional": True}}],
        "resources": {"requests": dict(requests), "limits": _limits(requests)} if requests else {},
        "volumeMounts": [*mounts, *([XCOM_VOLUME] if xcom else [])],
    }


def _sidecar(name: str) -> Json:
    if name == SIDECAR:  # as the provider adds it
        loop = 'trap "exit 0" INT; while true; do sleep 1; done;'
        resources = {"requests": {"cpu": "1m", "memory": "10Mi"}}
        command = ["sh", "-c", loop]
        return {
            "name": name,
            "image": "alpine",
            "command": command,
            "resources": resources,
            "volumeMounts": [XCOM_VOLUME],
        }
    return {"name": name, "image": f"registry.example.com/mesh/{name}:1.2.3", "args": ["proxy", "sidecar"]}


def _volumes(*, xcom: bool) -> list[Json]:
    volumes: list[Json] = [
        {"name": "config", "configMap": {"name": "etl-config", "optional": True}},
        {"name": "scratch", "emptyDir": {"sizeLimit": "10Gi"}},
        {"name": "certs", "secret": {"secretName": "company-ca", "optional": True}},
    ]
    return [*volumes, {"name": "xcom", "emptyDir": {}}] if xcom else volumes
