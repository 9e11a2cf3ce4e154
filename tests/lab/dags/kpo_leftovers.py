"""Pods that stay on purpose, or whose base container is not the only one or has another name."""

from __future__ import annotations

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from _kpo import LAB, kpo, kpo_dag, settings

with kpo_dag("kpo_keep", {f"{LAB}/run-for": "1s"}):
    kpo(on_finish_action="keep_pod")

# Gives up on its Pod after a few seconds and, told to keep it, leaves a running container behind.
with kpo_dag("kpo_gives_up", {f"{LAB}/stay-pending": "true"}):
    kpo(on_finish_action="keep_pod", startup_timeout_seconds=3, schedule_timeout_seconds=3)

with kpo_dag("kpo_xcom"):
    kpo(do_xcom_push=True)

with kpo_dag("kpo_base"):
    kpo(base_container_name="main")

with kpo_dag("kpo_base_xcom"):
    kpo(base_container_name="main", do_xcom_push=True)


class KubernetesJobOperator(KubernetesPodOperator):
    """Stands for the operators that run a Job: Airflow knows the class by its name only."""


with kpo_dag("kpo_foreign"):
    KubernetesJobOperator(task_id="work", **settings())
