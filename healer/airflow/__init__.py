"""Airflow's REST API as the healer needs it: what became of the task instances whose Pods we see.

`Airflow` has three questions (`look`, `ended_lately`, `ask_each`). The rooms, from the outside in: service (the
questions), absence, identity, lists and singles (how they are asked), harvest, chunks, watermarks and resolve (what is
asked and what came back), round (version, when to give up), client, auth and transport (one exchange), rows and missing
(Airflow's words); and notes, the one thing that is ever written.
"""

from healer.airflow.notes import Noted
from healer.airflow.probe import Check, Mark, Probe
from healer.airflow.service import Airflow
from healer.airflow.transport import AirflowRefused, Call, NoAnswerError, Observe, ignore

__all__ = ["Airflow", "AirflowRefused", "Call", "Check", "Mark", "NoAnswerError", "Noted", "Observe", "Probe", "ignore"]
