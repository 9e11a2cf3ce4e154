"""Lets the API server work on one changing request at a time, which SQLite needs.

Airflow writes its audit row inside the event loop. If another request of the same process holds SQLite's write lock
just then, the loop waits for that request's commit, and the commit waits for the loop: both stand still until the
lock's timeout, and one of them ends as a 500. With PostgreSQL or MySQL nobody would wait. Reading is not held up.
"""

from __future__ import annotations

import asyncio

from airflow.plugins_manager import AirflowPlugin


class OneWriter:
    """ASGI middleware."""

    def __init__(self, app) -> None:
        self.app = app
        self.turn = asyncio.Lock()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self.app(scope, receive, send)
        else:
            async with self.turn:
                await self.app(scope, receive, send)


class OneWriterPlugin(AirflowPlugin):
    name = "one_writer"
    fastapi_root_middlewares = [{"middleware": OneWriter, "args": [], "kwargs": {}, "name": "one writer"}]  # noqa: RUF012
