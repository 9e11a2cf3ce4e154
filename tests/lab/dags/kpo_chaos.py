"""Tries that follow one another quickly, for many runs side by side."""

from __future__ import annotations

import datetime as dt

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from _kpo import kpo, kpo_dag, settings

STAMP = {"kpo-healer.io/airflow": "chaos"}
"""Nothing else proves whose a twin is that outlives its task while Airflow names the later try's Pod."""

TRIES = {"retries": 2, "retry_delay": dt.timedelta(seconds=3)}

with kpo_dag("chaos_retries"):
    kpo(**TRIES)

with kpo_dag("chaos_retries_deferrable"):
    kpo(deferrable=True, **TRIES)

with kpo_dag("chaos_mapped"):
    KubernetesPodOperator.partial(task_id="work", **settings(**TRIES)).expand(arguments=[["a"], ["b"]])

with kpo_dag("chaos_twins"):
    kpo(reattach_on_restart=False, labels=STAMP, **TRIES)

with kpo_dag("chaos_twins_deferrable"):
    kpo(reattach_on_restart=False, deferrable=True, labels=STAMP, **TRIES)
