"""Our own clock, by which evidence, leadership and patience are dated: it never jumps, and never stands still.

It is CLOCK_BOOTTIME where there is one (Linux). Python's `time.monotonic` stands still while the machine sleeps: after
an hour's sleep an answer of Airflow would look a second old and a lost Lease would look like ours. Neither is set by
anybody, so jumps of the wall clock do nothing here. Clocks of two machines are never compared.
"""

from __future__ import annotations

import time

_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Return seconds since some moment of the past, the same one for all of this process."""
    return time.clock_gettime(_ID)
