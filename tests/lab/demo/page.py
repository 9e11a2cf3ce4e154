"""The page "Orphaned Pods" in the demo's Airflow."""

from __future__ import annotations

from typing import Any, Final

import httpx

from tests.lab.airflow import Airflow
from tests.lab.airflow_plugin import python_path
from tests.lab.processes import wait_for

PATIENCE: Final = 300.0


def variables(port: int) -> dict[str, str]:
    """What an Airflow needs to show the page of the healer that listens at this port."""
    return {
        **python_path(),
        "AIRFLOW__KPO_HEALER__URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__KPO_HEALER__AIRFLOW": "demo",
    }


def where_it_is(airflow: Airflow) -> str | None:
    """The page's address and a login; None in Airflow 2, which has no place for it."""
    if airflow.version.startswith("2."):
        return None
    return f"{airflow.url}/plugin/orphaned-pods   user admin, password admin"


def what_it_shows(airflow: Airflow, *, healed: int) -> str:
    """What the page tells, as soon as it tells of so many deletions. Raises LabError when it never does."""

    def shown() -> bool:
        return int((overview(airflow).get("history") or {}).get("total", 0)) >= healed

    wait_for(shown, timeout=PATIENCE, what=f"{healed} deletions on the page", interval=0.5)
    answer = overview(airflow)
    now, total = answer["totals"]["pods"], answer["history"]["total"]
    return f"the page in Airflow shows {total} Pods that were healed, and {now} that are orphaned now"


def overview(airflow: Airflow) -> dict[str, Any]:
    """The page's own answer to the admin."""
    headers = {"Authorization": f"Bearer {airflow.token('admin')}"}
    url = f"{airflow.url}/kpo-healer/api/overview"
    return dict(httpx.get(url, headers=headers, timeout=180, trust_env=False).json())
