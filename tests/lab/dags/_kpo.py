"""What all example DAGs share: a KubernetesPodOperator that knows the lab's cluster.

Namespace and kubeconfig are Airflow variables (set through the environment), read when the task runs: the DAGs stay
the same for every cluster, and a parsed copy of them can be reused.

Each DAG takes `annotations` and `namespace` from the run's conf. Annotations tell kwok how a container behaves, for
instance `{"lab.kpo-healer.io/run-for": "5s", "lab.kpo-healer.io/exit-code": "1"}`; without them it runs for ever.
`by_index` gives mapped tasks annotations of their own: `{"0": {...}, "1": {...}}`.
"""

from __future__ import annotations

import datetime as dt

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

try:
    from airflow.sdk import DAG, TaskGroup
except ImportError:  # Airflow 2
    from airflow.models.dag import DAG
    from airflow.utils.task_group import TaskGroup  # noqa: F401 - for the DAGs

LAB = "lab.kpo-healer.io"


def kpo_dag(dag_id: str, annotations: dict[str, str] | None = None, params: dict | None = None, **more) -> DAG:
    """A DAG that runs when it is triggered; several runs go side by side. params: further ones."""
    return DAG(
        dag_id,
        schedule=None,
        catchup=False,
        max_active_runs=100,
        max_active_tasks=100,
        start_date=dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
        params={"annotations": annotations or {}, "by_index": {}, "namespace": "", **(params or {})},
        # So that the annotations, which are rendered from one expression, come out as a mapping.
        render_template_as_native_obj=True,
        **more,
    )


def settings(**more) -> dict:
    """The arguments of an operator; whatever is given wins."""
    return {
        "image": "registry.example.com/team/etl:1.2.3",
        "cmds": ["python", "-m", "etl.run"],
        "namespace": "{{ params.namespace or var.value.lab_namespace }}",
        "in_cluster": False,
        "config_file": "{{ var.value.lab_kubeconfig }}",
        "annotations": "{{ (params.by_index.get(ti.map_index | string) or params.annotations) | tojson }}",
        "env_vars": {"TEAM": "data-platform", "RUN": "{{ run_id }}"},
        "get_logs": False,
        "retries": 0,
        "startup_check_interval_seconds": 1,
        "base_container_status_polling_interval": 0.5,
        "poll_interval": 1,
        **more,
    }


def kpo(task_id: str = "work", **more) -> KubernetesPodOperator:
    return KubernetesPodOperator(task_id=task_id, **settings(**more))
