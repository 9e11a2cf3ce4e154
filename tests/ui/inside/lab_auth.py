"""An auth manager for tests: SimpleAuthManager, narrowed to some DAGs for some of its users.

`viewer` may read `sales` alone. `op` may also read the DAG `ml_features`, but none of its task instances.
"""

import os

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

if "LAB_FRESH" in os.environ:
    from kpo_healer_airflow import client, picture

    picture.FRESH = float(os.environ["LAB_FRESH"])
    client.TIMEOUT = client.LONGEST = 60.0  # a busy machine is not to look like a healer that is down

DAGS = {"viewer": {"sales"}, "op": {"sales", "ml_features"}}
TASK_INSTANCES = {"viewer": {"sales"}, "op": {"sales"}}


class NarrowAuthManager(SimpleAuthManager):
    def is_authorized_dag(self, *, method, user, access_entity=None, details=None):
        allowed = super().is_authorized_dag(method=method, user=user, access_entity=access_entity, details=details)
        wanted = TASK_INSTANCES if access_entity is DagAccessEntity.TASK_INSTANCE else DAGS
        if user.username not in wanted:
            return allowed
        # As FAB does: without an id the question is whether any DAG may be read.
        return allowed and (details is None or details.id is None or details.id in wanted[user.username])
