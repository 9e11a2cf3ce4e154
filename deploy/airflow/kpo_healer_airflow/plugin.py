"""The page, the tabs and the card in Airflow's UI, which can take them from 3.1.1 on.

Before, this plugin is registered without anything in it: 3.0 knows no React apps, and 3.1.0 keeps its login where only
its own pages find it. Every Airflow process imports this module; only the API server asks for `fastapi_apps`.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from airflow import __version__ as airflow_version
from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

__all__ = ["OrphanedPods"]

PREFIX = "/kpo-healer"
"""Where the server part is mounted."""

OLDEST = (3, 1, 1)


def is_supported(version: str) -> bool:
    """Return whether this version of Airflow can show the page."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return numbers is not None and tuple(map(int, numbers.groups())) >= OLDEST


def react_apps(base_url: str) -> list[dict[str, Any]]:
    """Return where the component is shown; `base_url` is that of Airflow's API server.

    `url_route` is unique among all plugins. `name` is also the label, and stays short on tabs, which don't wrap well.
    """
    base = urlsplit(base_url).path.rstrip("/") + PREFIX
    module = {"bundle_url": f"{base}/static/page.js"}
    icons = {"icon": f"{base}/static/icon.svg", "icon_dark_mode": f"{base}/static/icon-dark.svg"}
    page = {"name": "Orphaned Pods", "url_route": "orphaned-pods", "destination": "nav", "category": "browse"}
    card = {"name": "Orphaned Pods card", "url_route": "orphaned-pods-card", "destination": "dashboard"}
    tabs = [
        {"name": "Pods", "url_route": f"orphaned-pods-{place}", "destination": place.replace("-", "_")}
        for place in ("dag", "dag-run", "task", "task-instance")
    ]
    return [{**app, **module, **icons} for app in (page, card, *tabs)]


class OrphanedPods(AirflowPlugin):
    """What Airflow's plugin manager finds by the entry point `airflow.plugins`."""

    name = "kpo_healer"

    if is_supported(airflow_version):
        react_apps = react_apps(conf.get("api", "base_url", fallback="") or "")

        @property
        def fastapi_apps(self) -> list[dict[str, Any]]:
            """Import the server part only where it is asked for: FastAPI alone takes most of a second."""
            from kpo_healer_airflow.server import make_app

            return [{"app": make_app(), "url_prefix": PREFIX, "name": "kpo-healer"}]
