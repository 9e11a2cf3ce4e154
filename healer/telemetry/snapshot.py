"""What is known after a pass, as one thing that never changes: the thread of an Airflow makes it, others read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from healer.config import AirflowConfig
from healer.decision.quarantine import Now, Suspect, signature
from healer.decision.records import Record
from healer.insights.notice_tracker import NoticeSnapshot
from healer.model import Action, Withheld
from healer.telemetry.findings import FindingView, NoticeView, proven_dag


class BreakerStatus(Struct, frozen=True):
    """An open breaker: since when (epoch seconds, the API server's time), and a sentence with the figures."""

    since: float | None
    detail: str


class Snapshot(Struct, frozen=True):
    """The records of one Airflow and what holds of them at one moment. `suspects` and `withheld` are by Pod uid."""

    config: AirflowConfig
    records: tuple[Record, ...]
    suspects: Mapping[str, Suspect]
    withheld: Mapping[str, Withheld]
    now: Now
    notices_seen: NoticeSnapshot = NoticeSnapshot()
    breaker: BreakerStatus | None = None

    def notices(self) -> Iterator[NoticeView]:
        """Yield what is worth a look and is nobody's orphan."""
        for record in self.records:
            for noted in self.notices_seen.active.get(record.pod.uid, ()):
                yield NoticeView(record.pod, self.config.name, noted, record.finding.task, proven_dag(record.answer))
        for missing, noted in self.notices_seen.lost:
            yield NoticeView(missing.pod, self.config.name, noted, missing.task)

    def findings(self) -> Iterator[FindingView]:
        """Yield the finding on each Pod as users see it; made anew each time, so that a view costs next to nothing."""
        for record in self.records:
            yield self.finding(record, self.suspects.get(record.pod.uid))

    def suspect_finding(self, suspect: Suspect, known: Record | None) -> FindingView:
        """Show a suspect as it was found, with what was `known` of it besides."""
        answer, before = (known.answer, known.last_active_task) if known else (None, None)
        return self.finding(Record(suspect.pod, suspect.finding, answer, last_active_task=before), suspect)

    def finding(self, record: Record, suspect: Suspect | None) -> FindingView:
        """Show a finding; what its suspect waits for only where it is suspected of the same."""
        action = self.config.policy.actions.get(record.finding.reason, Action.KEEP)
        withheld = Withheld.NOT_DUE if action is Action.DELETE else None
        since = due = None
        if suspect is not None and suspect.signature == signature(record.finding):
            withheld = self.withheld.get(record.pod.uid)
            since, due = self.now.to_server(suspect.since), self.now.to_server(suspect.due)
        return FindingView(
            record.pod,
            self.config.name,
            record.finding,
            action,
            withheld,
            since,
            due,
            record.last_active_task,
            self.notices_seen.active.get(record.pod.uid, ()),
            proven_dag(record.answer),
        )
