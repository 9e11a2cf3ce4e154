"""The common ways to run a Pod: waiting in a worker, waiting in the triggerer, mapped, in a task group."""

from __future__ import annotations

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from _kpo import TaskGroup, kpo, kpo_dag, settings

with kpo_dag("kpo_sync"):
    kpo()

with kpo_dag("kpo_deferrable"):
    kpo(deferrable=True)

with kpo_dag("kpo_mapped"):
    KubernetesPodOperator.partial(task_id="work", **settings()).expand(arguments=[["a"], ["b"], ["c"]])

with kpo_dag("kpo_mapped_deferrable"):
    KubernetesPodOperator.partial(task_id="work", **settings(deferrable=True)).expand(arguments=[["a"], ["b"], ["c"]])

with kpo_dag("kpo_group"):
    with TaskGroup("extract"), TaskGroup("files"):
        kpo()
