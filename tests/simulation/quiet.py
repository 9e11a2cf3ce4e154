"""The healer's log, left out: it costs more than the healer's decisions."""

from __future__ import annotations

import logging

import structlog


def quieten() -> None:
    """Leave it out from now on, in this process."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
