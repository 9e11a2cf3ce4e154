"""One pass over the Pods of one Airflow: ask, judge, suspect, heal, tell.

Three depths. An *audit* asks about every Pod without any filter; late and missing end dates, deleted runs and twin
labels are caught here. A *full* pass asks which task instances ended lately, and about Pods that are new or changed. A
*due* pass only asks about the suspects that want another look now.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from enum import Enum, auto
from operator import attrgetter

from msgspec import Struct, field
from msgspec.structs import replace

from healer.airflow import Airflow
from healer.causes import Explained, explain
from healer.clock import steady
from healer.cluster import FRESHNESS, Cluster, ClusterError, Refused, Right
from healer.config import AirflowConfig, Mode
from healer.log import get_logger
from healer.metrics import Metrics
from healer.model import Action, Answer, Finding, Identity, Known, Pod, TaskInstance, Unknown, rfc3339
from healer.reconcile.casebook import Casebook, Record, owns
from healer.reconcile.chronicle import Chronicle
from healer.reconcile.healing import Healed, Healing
from healer.reconcile.ledger import Ledger
from healer.reconcile.lookout import Lookout
from healer.reconcile.notary import Notary
from healer.reconcile.postmortem import Coroner
from healer.reconcile.view import View
from healer.regrets import Regret, Regrets
from healer.report import Herald, Shown, subject
from healer.rules import Terms, needs_siblings
from healer.suspects import Now, Quarantine, Signature, Suspect
from healer.waste import held

log = get_logger(__name__)

_reason = attrgetter("finding.reason")


class Depth(Enum):
    """How much a pass asks."""

    DUE = auto()
    FULL = auto()
    AUDIT = auto()


def never_lifted(_airflow: str) -> bool:
    """Return False: nobody has lifted the breaker of any Airflow."""
    return False


class Tools(Struct, frozen=True):
    """What a pass works with.

    `clock` tells monotonic seconds, `wall` epoch seconds (for metrics only); `lifted` whether somebody has lifted the
    breaker of an Airflow; `freshness` is how old evidence may be, in seconds, which the cluster sees to.
    """

    cluster: Cluster
    herald: Herald
    metrics: Metrics
    right: Right
    clock: Callable[[], float] = steady
    wall: Callable[[], float] = time.time
    lifted: Callable[[str], bool] = never_lifted
    freshness: float = FRESHNESS
    notary: Notary = field(default_factory=Notary)


class Reconciler:
    """Everything that is known and done about the Pods of one Airflow. Used by one thread."""

    def __init__(self, config: AirflowConfig, airflow: Airflow, tools: Tools) -> None:
        """Start knowing nothing: safe, only later."""
        self.config, self._airflow, self._tools = config, airflow, tools
        terms = Terms(frozenset(config.policy.foreign_operators), config.policy.grace)
        self._book = Casebook(terms, lambda pod: owns(config, pod))
        self._quarantine = Quarantine(config.policy)
        self._healing = Healing(
            config,
            cluster=tools.cluster,
            quarantine=self._quarantine,
            confirm=self._confirm,
            chronicle=self._chronicle(),
            coroner=Coroner(config.name, config.post_mortem, tools.cluster),
            tally=tools.metrics,
            right=tools.right,
            clock=tools.clock,
        )
        self._regrets = Regrets()
        self._ledger = Ledger(tools.clock())
        self._lookout = Lookout(config)
        self._announced: dict[str, Signature] = {}
        self._lifted = False
        self._healed = Healed({})
        self.deleted: tuple[Shown, ...] = ()
        """What the last pass deleted."""

    def reconcile(self, pods: Iterable[Pod], depth: Depth, unreadable: Mapping[str, str]) -> None:
        """Make one pass over the picture of the Pods. `unreadable` says of which namespaces there is none, and why."""
        started = self._tools.clock()
        self._meet(pods, depth, unreadable)
        answers = self._ask(depth, unreadable)
        heard = self._hear(answers)
        for record in heard:
            self._quarantine.observe(record.pod, record.finding, self._now())
        self._look_into(answers)
        self._airflow.forget(self._lookout.hear(answers))
        self._count_condemned()
        self._heal(set(unreadable))
        self._condemn(heard)
        self._announce()
        if depth is not Depth.DUE:
            self._lookout.look(self._book.pages(), self._now())
        self._measure(started)

    def look(self, pods: Iterable[Pod], unreadable: Mapping[str, str]) -> None:
        """Ask about every Pod once and judge it; nothing is acted on."""
        self._meet(pods, Depth.AUDIT, unreadable)
        for record in self._hear(self._ask(Depth.AUDIT, unreadable)):
            self._quarantine.observe(record.pod, record.finding, self._now())
        self._count_condemned()
        self._healed = Healed(self._healing.preview(self._now()))
        self._lookout.look(self._book.pages(), self._now())

    def next_event(self) -> float:
        """When there is something to do before the next regular pass, in monotonic seconds; infinite if nothing."""
        return min(self._quarantine.next_event(self._now()), self._healing.next_event())

    def shown(self, *, first_look: bool = False) -> list[Shown]:
        """Return the findings on all Pods as users see them; after a first look nobody has been suspected for long."""
        shown = list(self.view().findings())
        return [replace(each, since=None) for each in shown] if first_look else shown

    def view(self) -> View:
        """Return what is known now, for other threads to read."""
        suspects = {suspect.pod.uid: suspect for suspect in self._quarantine}
        return View(self.config, tuple(self._book), suspects, self._healed.withheld, self._now(), self._lookout.seen)

    def record(self, uid: str) -> Record | None:
        """Return what is known of one Pod."""
        return self._book.get(uid)

    def failures(self) -> dict[str, str]:
        """Return the Pods that are due in enforce mode and still there, by uid, with what is known of the reason."""
        if self.config.mode is not Mode.ENFORCE:
            return {}
        ripe = [s for s in self._quarantine.ripe(self._now()) if s.action is Action.DELETE]
        left = [s for s in ripe if s.pod.uid not in self._healed.withheld]
        return {s.pod.uid: self._healing.failure(s.pod.uid) or f"{s.pod} could not be confirmed" for s in left}

    # --- ask and judge ------------------------------------------------------------------------------------------------

    def _meet(self, pods: Iterable[Pod], depth: Depth, unreadable: Mapping[str, str]) -> None:
        changed, gone = self._book.meet(self._healing.settle(pods))
        self._regrets.vanish(gone)
        self._lookout.miss(gone, self._now())
        self._forget(gone)
        for record in changed:
            self._regrets.see(record.pod)
            self._quarantine.follow(record.pod, record.finding, self._now())
        self._doubt(unreadable)
        if depth is Depth.AUDIT:
            self._airflow.start_audit()
            self._healing.start_audit()
            self._announced.clear()

    def _forget(self, uids: Set[str]) -> None:
        for uid in uids:
            self._book.drop(uid)
            self._quarantine.drop(uid)
            self._announced.pop(uid, None)
        self._healing.forget(uids)
        self._airflow.forget(uids)

    def _doubt(self, unreadable: Mapping[str, str]) -> None:
        """Judge nobody in a namespace that can't be read: what we have of it may be old."""
        for record in self._book if unreadable else ():
            why = unreadable.get(record.pod.namespace)
            if why is not None:
                doubted = self._book.doubt(record.pod, f"namespace {record.pod.namespace} can't be read: {why}")
                self._quarantine.observe(record.pod, doubted.finding, self._now())

    def _ask(self, depth: Depth, unreadable: Mapping[str, str]) -> dict[str, Answer]:
        """Ask Airflow as much as the depth wants, about Pods whose fate is its to tell."""
        pods = {pod.uid: pod for pod in self._book.askable(unreadable)}
        if depth is Depth.AUDIT:
            vanished = [*self._regrets.to_ask(audit=True), *self._lookout.to_ask(self._now())]
            everybody = list((pods | {pod.uid: pod for pod in vanished}).values())
            return _complete(everybody, self._airflow.look(everybody)) if everybody else {}
        suspects = self._quarantine.to_look_at(self._now(), blurred=depth is Depth.FULL)
        due = [pods[suspect.pod.uid] for suspect in suspects if suspect.pod.uid in pods]
        answers = _complete(due, self._airflow.ask_each(due)) if due else {}
        if depth is Depth.FULL:
            answers |= self._ask_widely(pods, asked=set(answers))
        return answers

    def _ask_widely(self, pods: Mapping[str, Pod], *, asked: set[str]) -> dict[str, Answer]:
        """Ask about Pods that are new or changed, and which of the others' task instances have ended lately."""
        changed = {pod.uid: pod for pod in self._book.to_look_at() if pod.uid in pods}
        changed |= {pod.uid: pod for pod in self._regrets.to_ask(audit=False)}
        wanted = [pod for uid, pod in changed.items() if uid not in asked]
        answers = _complete(wanted, self._airflow.look(wanted)) if wanted else {}
        others = {suspect.pod.uid for suspect in self._quarantine} | self._book.unsettled | asked | answers.keys()
        rest = [pod for uid, pod in pods.items() if uid not in others]
        ended = self._airflow.ended_lately(rest) if rest else {}
        self._book.reassure(pod for pod in rest if pod.uid not in ended)
        return answers | ended

    def _hear(self, answers: Mapping[str, Answer]) -> list[Record]:
        records = []
        for uid, answer in answers.items():
            known = self._book.get(uid)
            if known is not None:
                records.append(self._book.hear(known.pod, self._with_siblings(known.pod, answer)))
        return records

    def _with_siblings(self, pod: Pod, answer: Answer) -> Answer:
        """Read the Pods that Airflow names instead: their existence is evidence, so the picture won't do.

        One that can't be read just now leaves the identity unknown, so that all of it is asked again in the next pass.
        """
        if not isinstance(answer, Known) or answer.identity is None or not needs_siblings(pod, answer):
            return answer
        named = sorted((namespace or pod.namespace, name) for namespace, name in answer.identity.named)
        try:
            found = [self._read(namespace, name) for namespace, name in named]
        except ClusterError as error:
            return replace(answer, identity=Identity(failed=f"the Pod that Airflow names can't be read: {error}"))
        return replace(answer, siblings=tuple(sibling for sibling in found if sibling is not None))

    def _read(self, namespace: str, name: str) -> Pod | None:
        """Return a Pod where we may read it; a right that lacks is not there in the next pass either."""
        if namespace not in self.config.namespaces:
            return None
        try:
            return self._tools.cluster.get_pod(namespace, name)
        except Refused as error:
            log.info("a sibling can't be read", pod=f"{namespace}/{name}", why=str(error))
            return None

    def _confirm(self, pods: Sequence[Pod]) -> dict[str, tuple[Answer, Finding]]:
        """Ask and judge anew, for those about to be acted on."""
        answers = _complete(pods, self._airflow.ask_each(pods)) if pods else {}
        confirmed = {}
        for pod in pods:
            answer = self._with_siblings(pod, answers[pod.uid])
            confirmed[pod.uid] = answer, self._book.hear(pod, answer).finding
        return confirmed

    def _chronicle(self) -> Chronicle:
        tools, airflow = self._tools, self._airflow

        def note(pod: Pod, task: TaskInstance, text: str) -> None:
            tools.notary.note(airflow.write_note, self.config.name, pod, task, text)

        return Chronicle(
            self.config,
            version=lambda: airflow.version,
            server_time=tools.cluster.now,
            freshness=tools.freshness,
            herald=tools.herald,
            cause=self._cause,
            note=note,
            clock=tools.clock,
        )

    def _cause(self, pod: Pod, finding: Finding) -> Explained | None:
        record = self._book.get(pod.uid)
        return explain(pod, finding, record.before if record else None)

    def _now(self) -> Now:
        return Now(self._tools.clock(), self._tools.cluster.now())

    # --- watch on what would have been deleted ------------------------------------------------------------------------

    def _condemn(self, heard: Iterable[Record]) -> None:
        """Watch on whom nothing but the policy has spared: ripe, and the same case by an answer of this pass."""
        now = self._now()
        suspects = (self._quarantine.get(record.pod.uid) for record in heard)
        ripe = (s for s in suspects if s and s.action is Action.REPORT and self._quarantine.is_ripe(s, now))
        for suspect in (*self._healed.spared, *ripe):
            if self._regrets.condemn(suspect.pod, suspect.finding, now.server):
                self._tell_condemned(suspect)

    def _look_into(self, answers: Mapping[str, Answer]) -> None:
        """Judge those that showed a sign of use in an earlier pass."""
        inquiries = self._regrets.hear(answers)
        wanted = [(each.victim.pod, each.task) for each in inquiries if each.task and each.wants_identity]
        named = self._airflow.current(wanted) if wanted else {}
        for inquiry in inquiries:
            regret = self._regrets.judge(inquiry, named.get(inquiry.victim.pod.uid, Identity()))
            if regret is not None:
                self._tell_regret(regret)
        self._airflow.forget([each.victim.pod.uid for each in inquiries if each.victim.gone])

    def _tell_condemned(self, suspect: Suspect) -> None:
        log.info(
            "would delete",
            airflow=self.config.name,
            pod=str(suspect.pod),
            uid=suspect.pod.uid,
            reason=suspect.finding.reason.value,
            detail=suspect.finding.detail,
        )

    def _tell_regret(self, regret: Regret) -> None:
        victim = regret.victim
        self._tools.metrics.regret(self.config.name, victim.finding.reason)
        log.warning(
            "regret: Airflow used a Pod that would have been deleted",
            airflow=self.config.name,
            pod=str(victim.pod),
            uid=victim.pod.uid,
            task=subject(Finding(victim.finding.reason, "", regret.task)),
            reason=victim.finding.reason.value,
            detail=victim.finding.detail,
            would_be_deleted=rfc3339(victim.at),
            way=regret.way.value,
            how=regret.how,
        )

    # --- guard and tell -----------------------------------------------------------------------------------------------

    def _count_condemned(self) -> None:
        """Let the breaker count, before anything is deleted, how much of what works is condemned."""
        active = self._book.active()
        condemned = sum(1 for s in self._quarantine if s.active and s.action is Action.DELETE)
        breaker, lifted = self._healing.breaker, self._tools.lifted(self.config.name)
        was_open, was_lifted, self._lifted = breaker.is_open, self._lifted, lifted
        breaker.update(active=active, condemned=condemned, now=self._tools.clock(), lifted=lifted)
        if (breaker.is_open, lifted) != (was_open, was_lifted):
            self._tell_breaker(active, condemned)

    def _tell_breaker(self, active: int, condemned: int) -> None:
        if self._healing.breaker.is_open:
            tell, what = log.warning, "open: too many active Pods are condemned at once, none of them is deleted"
        elif self._lifted:
            tell, what = log.warning, "lifted by hand: whatever is condemned may be deleted"
        else:
            tell, what = log.info, "closed again"
        tell(f"the breaker is {what}", airflow=self.config.name, condemned=condemned, active=active)

    def _heal(self, unreadable: set[str]) -> None:
        self._healed = self._healing.heal(self._now(), unreadable)
        deleted = self._healed.deleted
        self.deleted = tuple(map(self.view().show_suspect, deleted)) if deleted else ()
        self._regrets.forget(self._healed.gone)
        self._forget(self._healed.gone)

    def _announce(self) -> None:
        """Write an Event on each orphan that is ripe and still there, once per audit."""
        for suspect in self._quarantine:
            uid = suspect.pod.uid
            if self._announced.get(uid) == suspect.signature or not self._quarantine.is_ripe(suspect, self._now()):
                continue
            self._announced[uid] = suspect.signature
            withheld, cause = self._healed.withheld.get(uid), self._cause(suspect.pod, suspect.finding)
            self._tools.herald.detected(suspect.pod, suspect.finding, suspect.action, withheld, cause)

    def _measure(self, started: float) -> None:
        metrics, name = self._tools.metrics, self.config.name
        suspects = list(self._quarantine)
        metrics.pods(name, Counter(map(_reason, self._book)))
        metrics.suspects(name, self._quarantine.counts())
        metrics.withheld(name, Counter(self._healed.withheld.values()))
        metrics.held(name, held(suspect.pod for suspect in suspects))
        metrics.notices(name, self._lookout.seen.counts())
        metrics.wasted(name, self._ledger.charge(suspects, self._healed.deleted, self._now()))
        metrics.reclaimed(name, held(suspect.pod for suspect in self._healed.deleted))
        metrics.breaker(name, self._healing.breaker.is_open)
        metrics.pass_done(name, self._tools.clock() - started, self._tools.wall())


def _complete(pods: Iterable[Pod], answers: Mapping[str, Answer]) -> dict[str, Answer]:
    """Return an answer for every Pod: what Airflow passes over in silence is not known."""
    return {pod.uid: answers.get(pod.uid) or Unknown(0.0, "Airflow gave no answer") for pod in pods}
