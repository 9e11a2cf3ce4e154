"""What is known after a pass, as one thing that never changes: the deciding thread makes it, other threads read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from healer.config import AirflowConfig
from healer.model import Action, Withheld
from healer.reconcile.casebook import Record
from healer.reconcile.lookout import Seen
from healer.report import Notable, Shown
from healer.suspects import Now, Suspect, signature


class View(Struct, frozen=True):
    """The records of one Airflow and what holds of them at one moment. `suspects` and `withheld` are by Pod uid."""

    config: AirflowConfig
    records: tuple[Record, ...]
    suspects: Mapping[str, Suspect]
    withheld: Mapping[str, Withheld]
    now: Now
    seen: Seen = Seen()

    def notices(self) -> Iterator[Notable]:
        """Yield what is worth a look and is nobody's orphan."""
        for record in self.records:
            for noted in self.seen.noted.get(record.pod.uid, ()):
                yield Notable(record.pod, self.config.name, noted, record.finding.task)
        for missing, noted in self.seen.missing:
            yield Notable(missing.pod, self.config.name, noted, missing.task)

    def findings(self) -> Iterator[Shown]:
        """Yield the finding on each Pod as users see it; made anew each time, so that a view costs next to nothing."""
        for record in self.records:
            yield self.show(record, self.suspects.get(record.pod.uid))

    def show_suspect(self, suspect: Suspect) -> Shown:
        """Show a suspect that is among the records no more."""
        return self.show(Record(suspect.pod, suspect.finding), suspect)

    def show(self, record: Record, suspect: Suspect | None) -> Shown:
        """Show a finding; what its suspect waits for only where it is suspected of the same."""
        action = self.config.policy.actions.get(record.finding.reason, Action.KEEP)
        withheld = Withheld.NOT_DUE if action is Action.DELETE else None
        since = due = None
        if suspect is not None and suspect.signature == signature(record.finding):
            withheld = self.withheld.get(record.pod.uid)
            since, due = self.now.to_server(suspect.since), self.now.to_server(suspect.due)
        noted = self.seen.noted.get(record.pod.uid, ())
        return Shown(record.pod, self.config.name, record.finding, action, withheld, since, due, record.before, noted)
