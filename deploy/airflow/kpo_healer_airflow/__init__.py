"""kpo-healer inside Airflow.

`stamp` labels Pods of the KubernetesPodOperator (Airflow 2.10 and later); `plugin` shows, in Airflow's own UI, those
that were left behind (3.1.1 and later). Every Airflow process imports both, so neither imports more than it needs:
`server` and what stands below it are loaded by the API server alone.
"""

__version__ = "0.1.0"
