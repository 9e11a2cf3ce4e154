"""The questions that the healer asks of an Airflow, whatever its version: the seam behind which two dialects stand.

`dialect3` asks Airflow 3 (/api/v2), `dialect2` asks Airflow 2.10 and 2.11 (/api/v1). Both are modules of pure
functions: what they return says how to ask, how to read a 200, and which refusal means "there is none". Nothing else of
the healer knows a path or a text of Airflow's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from healer.airflow.api.pod_names import Value
from healer.airflow.api.reply import Problem
from healer.airflow.api.schema import Ids, TaskInstancePage
from healer.airflow.api.task_key import TaskKey, TaskKeys
from healer.airflow.api.transport import AirflowRequest
from healer.model import TaskInstance

T = TypeVar("T")

BEYOND = 1_000_000
"""An offset behind all rows: that a list can be had at all is shown by a page that depends on none of them."""


Missing = Callable[[int, Problem], bool]
"""Whether a status and what came with it say that there is no such thing."""


class Ask(Struct, Generic[T], frozen=True):
    """One question: the request, how a 200 is read, and which refusal means that there is none."""

    request: AirflowRequest
    decode: Callable[[bytes], T]
    missing: Missing = lambda _status, _problem: False

    def within(self, seconds: float) -> Ask[T]:
        """Return the same question, whose answer may take only so long."""
        return replace(self, request=replace(self.request, timeout=seconds))


class XCom(Struct, frozen=True):
    """An XCom, and when it was pushed (seconds since the epoch; None where Airflow does not say)."""

    value: Value
    pushed: float | None = None


class Dialect(Protocol):
    """How one kind of Airflow is asked."""

    @property
    def API(self) -> str:  # noqa: N802 - a constant of the module
        """How the paths of this API begin."""

    @property
    def RIGHTS(self) -> str:  # noqa: N802 - a constant of the module
        """What to do about a 403."""

    @property
    def LISTS_UNKNOWN(self) -> bool:  # noqa: N802 - a constant of the module
        """Whether a list with a DAG that does not exist or may not be read is answered, without that one."""

    def problem(self, content: bytes, content_type: str) -> Problem:
        """Read a refusal. Never raises."""

    def login_refused(self, status: int, said: Problem) -> bool:
        """Whether a refusal means the login, beyond doubt."""

    def forbidden(self, status: int, said: Problem) -> bool:
        """Whether Airflow says that a right is missing. A login that has just ended may look like that too."""

    def version(self) -> Ask[str]:
        """Ask for the version, which needs no login."""

    def dags(self, limit: int, offset: int = 0) -> Ask[Ids]:
        """List the DAGs that may be read, by their ids, those whose file is gone included."""

    def runs(self, dag_id: str, limit: int, offset: int = 0, prefix: str = "") -> Ask[Ids]:
        """List a DAG's runs, newest first; `~` stands for all DAGs. `prefix` where `Version.prefixes` allows it."""

    def tasks(self, dag_id: str) -> Ask[Ids]:
        """List a DAG's tasks as it is now."""

    def tasks_of_run(self, dag_id: str, run_id: str, limit: int, offset: int = 0, *, maps: bool = False) -> Ask[Ids]:
        """List of which tasks a run has instances, once for each instance; `maps` (`Version.maps`): once for each task.

        The ids are part of the URL.
        """

    def tasks_listed(self, dag_id: str, run_id: str, limit: int) -> Ask[Ids]:
        """List the same by a question whose URL holds no id, and which needs no DAG that was parsed."""

    def dag(self, dag_id: str) -> Ask[str]:
        """Ask whether a DAG exists."""

    def left_of(self, dag_id: str) -> Ask[Ids] | None:
        """List a task instance of a DAG of which Airflow says that there is none; None where that is said of no DAG
        that was only not parsed."""

    def run(self, dag_id: str, run_id: str) -> Ask[str]:
        """Ask whether a run exists. "None" is also said where the DAG does not."""

    def task_instance(self, task_key: TaskKey, map_index: int) -> Ask[TaskInstance]:
        """Ask for one task instance. "None" is said too where the task, the run or the DAG does not exist."""

    def listed(self, chunk: TaskKeys, filters: Mapping[str, object]) -> Ask[TaskInstancePage]:
        """List the task instances of a chunk."""

    def may_list(self, nobody: str, dag_id: str = "~") -> Ask[bool]:
        """Ask for none of all task instances, or of a DAG's: whether any may be read. `nobody`: an id nothing has."""

    def recent(self, operators: Sequence[str], limit: int, since: float | None) -> Ask[TaskInstancePage]:
        """List the newest task instances of these operators, and maybe of others.

        `since`: from when on (seconds since the epoch), where Airflow can't sort them.
        """

    def indices(self, task_key: TaskKey, indices: Sequence[int], limit: int) -> Ask[TaskInstancePage] | None:
        """List some map indices of one task (where `Version.maps`); None where no list can be filtered by them."""

    def state_store(self, task_key: TaskKey, map_index: int) -> Ask[Value] | None:
        """Ask the task state store for the Pod; None where there is no such store."""

    def xcom(self, task_key: TaskKey, map_index: int, key: str) -> Ask[XCom]:
        """Ask for an XCom."""

    def counts(self, task: TaskInstance, found: XCom) -> bool:
        """Whether an XCom is of the try that runs now."""

    def read_note(self, task_key: TaskKey, map_index: int) -> Ask[str | None]:
        """Ask what is noted on a task instance."""

    def write_note(self, task_key: TaskKey, map_index: int, text: str) -> Ask[bool]:
        """Write a note."""

    def may_note(self, dag_id: str, nobody: str) -> Ask[bool]:
        """Ask whether notes may be written in a DAG, without writing one: "none" where they may."""
