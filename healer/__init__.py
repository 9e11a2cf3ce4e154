"""kpo-healer: finds the Pods that Airflow's KubernetesPodOperator left behind, and heals them."""

__version__ = "0.1.0"
