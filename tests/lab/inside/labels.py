"""Runs in Airflow's own environment: reads a JSON list of ids, writes what the provider's own code makes of them.

{"labels": the label of each id, "pods": the labels of an unmapped and two mapped Pods of the first three ids}
"""

import json
import sys
from types import SimpleNamespace

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value


def pod_labels(dag_id: str, task_id: str, run_id: str, map_index: int) -> dict[str, str]:
    """What KPO puts on the Pod of this task instance."""
    ti = SimpleNamespace(dag_id=dag_id, task_id=task_id, map_index=map_index, try_number=2)
    context = {"ti": ti, "run_id": run_id, "dag": SimpleNamespace(parent_dag=None)}
    return KubernetesPodOperator._get_ti_pod_labels(context)


def main() -> None:
    """From standard input to standard output."""
    ids = json.load(sys.stdin)
    pods = [pod_labels(*ids[:3], map_index) for map_index in (-1, 0, 17)]
    json.dump({"labels": [make_safe_label_value(one) for one in ids], "pods": pods}, sys.stdout)


if __name__ == "__main__":
    main()
