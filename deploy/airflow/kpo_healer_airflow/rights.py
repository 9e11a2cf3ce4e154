"""Whose findings a user may see: those of DAGs whose task instances Airflow lets them read."""

from __future__ import annotations

from collections.abc import Set

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.models.dag import DagModel
from airflow.utils.session import create_session
from sqlalchemy import select

from kpo_healer_airflow.overview import Rights

__all__ = ["rights"]

NO_DAG = "kpo-healer.io/any"
"""No DAG can be called so, since ids hold no slash: only a right on all DAGs gives access to it."""


def rights(user: BaseUser, dag_ids: Set[str]) -> Rights:
    """Return which of `dag_ids` this user may see.

    Airflow's own filter is asked first, for it knows of teams; then each DAG, for the right to read a DAG is not the
    one to read its task instances. Never without an id: some auth managers answer then whether *any* DAG may be read.
    """
    manager = get_auth_manager()
    readable = manager.get_authorized_dag_ids(user=user, method="GET")
    seen = frozenset(dag_id for dag_id in dag_ids & readable if _may_read(manager, user, dag_id))
    existing = _existing()
    everything = existing <= readable and dag_ids & existing <= seen and _may_read(manager, user, NO_DAG)
    return Rights(seen, everything)


def _may_read(manager: BaseAuthManager[BaseUser], user: BaseUser, dag_id: str) -> bool:
    details = DagDetails(id=dag_id)
    return bool(
        manager.is_authorized_dag(method="GET", user=user, access_entity=DagAccessEntity.TASK_INSTANCE, details=details)
    )


def _existing() -> set[str]:
    with create_session() as session:
        return set(session.scalars(select(DagModel.dag_id)))
