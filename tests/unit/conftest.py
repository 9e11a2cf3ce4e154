"""Hypothesis profiles: the same examples on every run by default, many more with `HYPOTHESIS_PROFILE=deep`.

`brief` is for runs of the same tests over and over, with one mutant after another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

SLOW_MACHINES = [HealthCheck.too_slow]

settings.register_profile(
    "quick", derandomize=True, deadline=None, database=None, max_examples=200, suppress_health_check=SLOW_MACHINES
)
settings.register_profile(
    "brief",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=30,
    suppress_health_check=SLOW_MACHINES,
    phases=[Phase.explicit, Phase.generate],
)
settings.register_profile(
    "deep", deadline=None, max_examples=5_000, print_blob=True, suppress_health_check=SLOW_MACHINES
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True)
def _kopf_is_heard_again() -> Iterator[None]:
    """A watch that starts keeps kopf quiet for the whole process, the tests after it included."""
    loggers = [logging.getLogger(name) for name in ("kopf", "kopf.objects")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
