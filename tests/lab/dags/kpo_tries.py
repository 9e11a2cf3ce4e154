"""Tasks with more than one try: the next one adopts the Pod of the one before, or starts a twin beside it."""

from __future__ import annotations

import datetime as dt

from _kpo import kpo, kpo_dag

SOON = dt.timedelta(seconds=10)
LATE = dt.timedelta(hours=1)

with kpo_dag("kpo_retries"):
    kpo(retries=2, retry_delay=SOON)

# Waits between two tries for as long as one wants to look; clear the task to start the next try.
with kpo_dag("kpo_retries_late"):
    kpo(retries=2, retry_delay=LATE)

with kpo_dag("kpo_retries_deferrable"):
    kpo(retries=2, retry_delay=SOON, deferrable=True)

# Does not look for the Pod of an earlier try: each try starts its own. A deferrable task never cleans up behind the
# earlier one, a task that waits in its worker does.
with kpo_dag("kpo_twins"):
    kpo(retries=2, retry_delay=SOON, reattach_on_restart=False)

# Its Pods are stamped: where a copy of some Pod refutes the claim to the namespace, nothing else proves whose a twin is.
with kpo_dag("kpo_twins_deferrable"):
    stamp = {"kpo-healer.io/airflow": "demo"}
    kpo(retries=2, retry_delay=SOON, reattach_on_restart=False, deferrable=True, labels=stamp)
