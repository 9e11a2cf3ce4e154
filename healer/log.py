"""Loggers. All of the healer takes structlog from here, so that it comes without what it would take along.

Where structlog finds rich it imports it, for tracebacks in colour that print the variables of each frame: 0.05 s of CPU
at each start, and tokens in a log.
"""

from __future__ import annotations

from healer.import_stubs import block_import

with block_import("rich"):
    import structlog

__all__ = ["get_logger", "structlog"]

get_logger = structlog.get_logger
