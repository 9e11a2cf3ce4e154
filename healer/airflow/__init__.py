"""Airflow's REST API as the healer needs it: what became of the task instances whose Pods we see.

`Airflow` has three questions (`get_all`, `list_recently_ended`, `get_each`). From the outside in: `service` (the
questions), `queries` (how they are asked of many Pods at once, what came back, when to give up), `api` (one exchange:
logins, transport, and the two dialects, one of which each version of Airflow speaks); and `notes`, the one thing that
is ever written. Nothing outside `api` knows which Airflow it asks.
"""

from healer.airflow.api.exec import end_programs
from healer.airflow.api.transport import Call, ObserveCall, ignore
from healer.airflow.check import Probe, ProbeCheck, Status
from healer.airflow.notes import NoteResult
from healer.airflow.service import Airflow

__all__ = ["Airflow", "Call", "NoteResult", "ObserveCall", "Probe", "ProbeCheck", "Status", "end_programs", "ignore"]
