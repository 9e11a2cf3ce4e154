"""The server part of the page, mounted into Airflow's API server at `/kpo-healer`.

`/static` holds the page itself, which tells nothing. Everything else needs Airflow's login, by a dependency of the
whole app, so that a route can't be added without. All of it only reads.
"""

from __future__ import annotations

from datetime import datetime, timezone, tzinfo
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from airflow.api_fastapi.core_api.security import GetUserDep, get_user
from fastapi import Depends, FastAPI, Query, Response
from fastapi.staticfiles import StaticFiles

from kpo_healer_airflow import overview as shown
from kpo_healer_airflow.picture import Healer
from kpo_healer_airflow.rights import rights

__all__ = ["make_app"]

STATIC = Path(__file__).with_name("static")

_TEXT = Query(max_length=250)
"""Ids in Airflow have at most 250 characters."""


def make_app(healer: Healer | None = None) -> FastAPI:
    """Return the app; `healer` is what it shows, by default the configured one."""
    healer = healer or Healer()
    app = FastAPI(title="kpo-healer", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(get_user)])
    app.mount("/static", StaticFiles(directory=STATIC))

    # Not async: auth managers may ask a database, and the healer is asked with a blocking client.
    @app.get("/api/overview")
    def overview(
        user: GetUserDep,
        dag_id: Annotated[str, _TEXT] = "",
        run_id: Annotated[str, _TEXT] = "",
        task_id: Annotated[str, _TEXT] = "",
        map_index: int | None = None,
        q: Annotated[str, _TEXT] = "",
        reason: Annotated[str, _TEXT] = "",
        rows: Annotated[int, Query(ge=0, le=shown.ROWS)] = shown.ROWS,
        tz: Annotated[str, _TEXT] = "UTC",
    ) -> Response:
        """Answer with what this user may see of what is asked for."""
        picture = healer.picture()
        allowed = rights(user, picture.dags)
        query = shown.Query(dag_id, run_id, task_id, map_index, q, reason, rows)
        answer = shown.overview(picture, allowed, query, datetime.now(timezone.utc), _zone(tz))
        return Response(
            msgspec.json.encode(answer), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    return app


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        return timezone.utc
