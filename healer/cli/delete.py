"""`delete`: one Pod, for the person on call. The same reconciler as the controller's, which may delete nothing else.

It looks at all Pods of the Airflow, as breaker and ownership want, and shows what it found of the one. Once somebody
has approved that very case it looks again until the Pod's patience is over. What then still is the same case is
confirmed and deleted as in any pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from msgspec import Struct

from healer.airflow.note_writer import NoteWriter
from healer.cli import kept
from healer.cli.findings import task_name
from healer.cli.lease import Beside
from healer.cli.oneshot import OneShot, find_pod, no_progress
from healer.cli.output import age, write_data, write_prose
from healer.cli.summary import held
from healer.clock import boottime
from healer.cluster import Cluster
from healer.config import Config, Mode, covers
from healer.decision.quarantine import Now, Suspect, is_due
from healer.errors import KeptError, NoSuchPodError, NotDeletedError
from healer.model import DeleteStatus, PassKind, Reason, printable
from healer.reconciler import Reconciler
from healer.telemetry.events import EventRecorder
from healer.telemetry.findings import FindingView
from healer.wiring import DeleteRequest, Shared, build

BY = "command"
"""Who wanted it, in the decision record and the log."""

SLACK = 5.0
"""Seconds beyond the patience that a call waits, for the last look."""


class Plan(Struct, frozen=True):
    """What would be deleted, and why; `left` is in how many seconds it may be, `leader` a sentence on who leads.

    `unseen` says of which namespaces and patterns of its Airflow nothing is known, and why.
    """

    view: FindingView
    left: float
    leader: str
    unseen: Mapping[str, str] = MappingProxyType({})

    def lines(self) -> list[str]:
        """Return what somebody must know who approves it."""
        view, finding = self.view, self.view.finding
        data = view.to_dict()
        task = data["task"]
        state = f": state {task['state'] or 'none (cleared)'}, try {task['try_number']}" if task else ""
        lines = [
            f"Pod {view.pod}",
            f"  uid       {view.pod.uid}",
            f"  task      {task_name(task) or view.dag or 'unknown to Airflow ' + view.airflow}{state}",
            f"  reason    {finding.reason}: {finding.detail}",
            *([f"  cause     {view.cause.cause}: {view.cause.detail}"] if view.cause else []),
            f"  holds     {held(data['holds']) or 'nothing'}",
            f"  leader    {self.leader}",
            *([f"  unseen    {self._told_unseen()}"] if self.unseen else []),
        ]
        return [printable(line) for line in lines]

    def _told_unseen(self) -> str:
        name, why = next(iter(self.unseen.items()))
        more = f" and {len(self.unseen) - 1} more" if len(self.unseen) > 1 else ""
        return f"namespace {name}{more}, so that breaker and ownership are told without the Pods there: {why}"

    @property
    def question(self) -> str:
        """What has to be answered with yes."""
        when = f"in {age(self.left)}" if self.left >= 1 else "at once"
        return f"Delete it? It is looked at again, and deleted {when} if it is still the same case"


class Deleted(Struct, frozen=True):
    """What became of the Pod: `said` is a sentence. `by_us` is False where it was gone before a DELETE was due."""

    view: FindingView
    said: str
    by_us: bool = True


class PodDeletion:
    """The deletion of one Pod, in two steps: `look`, and once somebody has approved what that found, `carry_out`."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        leadership: Beside,
        namespace: str,
        name: str,
        *,
        patience: float | None = None,
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """Find the Pod. `patience` is how long to wait for its due time, in seconds; its Airflow's grace by default.

        Raises NoSuchPodError, KeptError where its Airflow only reports, or ClusterError when it can't be read.
        """
        self._airflow, self.pod = find_pod(config, cluster, namespace, name)
        if self._airflow.mode is not Mode.ENFORCE:
            raise KeptError(
                f"{self.pod} is not deleted: Airflow {self._airflow.name} is in report mode, in which nothing is; "
                "explain says what is found of it, mode: enforce in the configuration lets it be deleted"
            )
        self._config = config
        self._cluster, self._leadership = cluster, leadership
        self._wait, self._clock = wait, clock
        self._patience = self._airflow.policy.grace if patience is None else patience
        self._request, self._started = DeleteRequest(BY), clock()
        self._recorder, self._note_writer = EventRecorder(cluster), NoteWriter()
        self._one_shot: OneShot
        self._reconciler: Reconciler

    def look(self, on_progress: Callable[[str], None] = no_progress) -> Plan:
        """Look at all Pods once and judge them; nothing is deleted.

        Raises KeptError, NotDeletedError, NoSuchPodError, or LoginRefusedError.
        """
        on_progress("logging in")
        # Another Airflow's Pods and login have nothing to do with it; its names tell which ones these are.
        self._one_shot = OneShot(self._config, self._cluster, on_progress, only=self._airflow)
        shared = Shared(
            self._config,
            self._cluster,
            self._one_shot.store,
            self._one_shot.resync,
            self._leadership,
            self._recorder,
            self._one_shot.metrics,
        )
        self._reconciler = build(
            self._airflow,
            self._one_shot.connect(self._airflow),
            shared,
            self._leadership.is_leader,
            self._note_writer,
            self._clock,
            self._request,
        )
        on_progress("listing Pods")
        self._one_shot.list_pods()
        self._reconciler.scan_once(*self._one_shot.of(self._airflow))
        self._started = self._clock()  # patience begins with the first sight, however long that took
        suspect = self._suspect()
        if suspect is None:
            raise NoSuchPodError(f"{self.pod} has just vanished")
        if suspect.due - self._started > self._patience + SLACK:
            raise self._kept(kept.by_patience(self._airflow, suspect, self._now(), self._started))
        self._reject_withheld(suspect)
        left = max(0.0, suspect.due - self._clock())
        return Plan(self._view(suspect), left, self._leadership.sentence, self._one_shot.of(self._airflow)[1])

    def carry_out(self, on_progress: Callable[[str], None] = no_progress) -> Deleted:
        """Wait for the patience, look again, and delete what was shown if it is still the same case.

        Raises KeptError, or NotDeletedError.
        """
        self._one_shot.on_progress = on_progress
        record = self._reconciler.record(self.pod.uid)
        if record is None or record.suspect is None:
            raise AssertionError("`look` has found a suspect")
        approved = record.suspect
        self._request.approve(approved)
        with self._recording():
            return self._passes(approved)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        self._recorder.start()
        try:
            yield
        finally:
            self._recorder.stop(timeout=5.0)
            self._note_writer.stop(timeout=30.0)

    def _passes(self, approved: Suspect) -> Deleted:
        """Make passes, each when the Pod wants one, until it is deleted or something speaks against it."""
        suspect = approved
        deadline = max(self._started + self._patience, self._clock()) + SLACK
        at = self._clock() if is_due(suspect, self._now(), self._airflow.policy) else self._reconciler.next_event()
        while at <= deadline:
            left = max(0.0, at - self._clock())
            self._one_shot.on_progress(f"waiting {left:.0f} s, then {self.pod} is looked at again")
            self._wait(left)
            self._one_shot.list_pods()
            pods, unreadable = self._one_shot.of(self._airflow)
            self._reconciler.reconcile(pods, PassKind.FULL, unreadable)
            if self._reconciler.deleted:
                (view,) = self._reconciler.deleted
                return Deleted(view, f"{self.pod} is deleted: it was {view.finding.reason}")
            found = self._suspect()
            if found is None:
                return Deleted(self._view(suspect), f"{self.pod} is gone already, and not by this command", by_us=False)
            suspect = found
            if not self._request.covers(suspect):
                raise self._kept(
                    f"it is another case now: {suspect.finding.reason}, {suspect.finding.detail}; look again"
                )
            self._reject_failed()
            self._reject_withheld(suspect)
            at = self._reconciler.next_event()
        if suspect.due > self._clock():
            raise self._kept(kept.by_patience(self._airflow, suspect, self._now(), self._started))
        raise self._unconfirmed()

    def _suspect(self) -> Suspect | None:
        """Return the Pod as a suspect that the policy deletes, None where there is no Pod any more.

        Raises KeptError, or NotDeletedError.
        """
        unreadable = self._unreadable()
        if unreadable:
            raise NotDeletedError(f"{self.pod} is not deleted: namespace {self.pod.namespace}: {unreadable}")
        record = self._reconciler.record(self.pod.uid)
        if record is None:
            return None
        if record.finding.reason is Reason.AIRFLOW_UNKNOWN:
            raise NotDeletedError(
                f"{self.pod} is not deleted: {record.finding.detail}; {kept.REMEDIES[Reason.AIRFLOW_UNKNOWN]}"
            )
        why = kept.by_rule(self._airflow, record.finding)
        if why:
            raise self._kept(why)
        if record.suspect is None:
            raise self._unconfirmed()
        return record.suspect

    def _unreadable(self) -> str | None:
        """Say why nothing is known of the Pod's namespace now; it need not have been found yet where a pattern fits."""
        unreadable, namespace = self._one_shot.of(self._airflow)[1], self.pod.namespace
        names = (namespace,) if namespace in self._airflow.namespaces else (namespace, *self._airflow.namespaces)
        return next((unreadable[name] for name in names if name in unreadable and covers((name,), namespace)), None)

    def _reject_failed(self) -> None:
        """Raise what became of the DELETE of the last pass, where one was tried and the Pod is still there."""
        result = self._reconciler.result(self.pod.uid)
        if result is not None and result.status is not DeleteStatus.GONE:
            raise NotDeletedError(result.message)

    def _reject_withheld(self, suspect: Suspect) -> None:
        why = self._reconciler.obstacle(suspect)
        if why is not None:
            breaker = self._reconciler.snapshot().breaker
            refuted = self._reconciler.refuted.get(self.pod.namespace)
            text = breaker.detail if breaker else ""
            raise self._kept(kept.by_withheld(self._airflow, why, suspect, refuted=refuted, breaker=text))

    def _view(self, suspect: Suspect) -> FindingView:
        return self._reconciler.snapshot().suspect_finding(suspect, self._reconciler.record(self.pod.uid))

    def _kept(self, why: str) -> KeptError:
        return KeptError(f"{self.pod} is not deleted: {why}")

    def _unconfirmed(self) -> NotDeletedError:
        return NotDeletedError(f"{self.pod} is not deleted: no clear answer confirmed it in time; look again")

    def _now(self) -> Now:
        return Now(self._clock(), self._cluster.now())


def show(deleted: Deleted, form: str) -> None:
    """Print what became of the Pod."""
    data = deleted.view.to_dict()
    if form != "table":
        write_data({"deleted": deleted.by_us, "said": deleted.said, "finding": data}, form)
        return
    holds = held(data["holds"])
    write_prose(f"{deleted.said}.{f' It held {holds}.' if holds and deleted.by_us else ''}")
