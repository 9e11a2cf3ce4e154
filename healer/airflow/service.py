"""What the rest of the healer asks of one Airflow: three questions, each about many Pods, each answered for every Pod.

No question raises for what a server does: the answer is then Unknown, with a sentence that says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import compress

from msgspec import UNSET, Struct

from healer.airflow.absence import Absence, Missing
from healer.airflow.chunks import Chunk
from healer.airflow.client import Client
from healer.airflow.harvest import Harvest
from healer.airflow.identity import Identities
from healer.airflow.lists import Lister, Question, Sizes, Wanted
from healer.airflow.notes import Noted, write_note
from healer.airflow.probe import Probe, probe
from healer.airflow.resolve import Cell, Resolution, Resolver, Spot, spot
from healer.airflow.round import Round, Versions, side_by_side
from healer.airflow.singles import ask_task_instance, askable
from healer.airflow.transport import AirflowRefused, NoAnswerError, Observe, ignore
from healer.airflow.watermarks import Watermarks
from healer.clock import steady
from healer.config import AirflowConfig
from healer.labels import parse
from healer.model import Ambiguous, Answer, Identity, Known, LabelKey, Pod, TaskInstance, Unknown
from healer.rules import ENDED, needs_identity

SINGLY = 100
"""Pods up to which `ask_each` asks one by one: no row in Airflow's audit table. Beyond, lists cost the server less."""


class _Wish(Struct, frozen=True):
    """A Pod whose labels can be read."""

    pod: Pod
    key: LabelKey


class Airflow:
    """One Airflow. Keeps the login, the version, resolved ids, identities and watermarks; forgets at each audit.

    Its questions are for one thread at a time; within, a few requests run side by side, and `observe` is called from
    their threads.
    """

    def __init__(self, config: AirflowConfig, *, observe: Observe = ignore) -> None:
        self._config = config
        self._client = Client(config, observe)
        self._versions = Versions(self._client)
        self._resolver = Resolver()
        self._identities = Identities()
        self._marks = Watermarks()
        self._sizes = Sizes()
        self._resolved: dict[str, tuple[Cell, int]] = {}
        self._cells: dict[Cell, Cell] = {}

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self._config.name

    @property
    def version(self) -> str | None:
        """The version last seen, None before the first answer."""
        return self._versions.text

    def login(self) -> str | None:
        """Make sure that we get in. Raises AirflowRefused if the login is refused.

        Whatever else goes wrong is no refusal: it is returned as a sentence, None if all is well.
        """
        try:
            self._client.log_in()
            self._versions.now()
        except AirflowRefused:
            raise
        except NoAnswerError as failed:
            return str(failed)
        return None

    def write_note(self, task: TaskInstance, text: str) -> Noted:
        """Note a line on a task instance, unless a user has noted something there. Safe to call from another thread.

        Raises NoAnswerError.
        """
        return write_note(self._client, task, text)

    def probe(self) -> Probe:
        """Return what works and what does not, for `check`."""
        return probe(self._client, self._config)

    def start_audit(self) -> None:
        """Forget what could not be resolved and what may have changed, so that the next `look` asks anew."""
        self._versions.doubt()
        self._resolver.start_audit()
        self._identities.start_audit()
        self._cells = {cell: cell for cell, _ in self._resolved.values()}
        cells = set(self._cells)
        self._marks.keep_only(cells)
        self._sizes.start_audit(cells)

    def forget(self, uids: Iterable[str]) -> None:
        """Forget Pods that are gone."""
        for uid in uids:
            self._resolved.pop(uid, None)
            self._identities.forget(uid)

    def look(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        """Return a full answer for every Pod, by uid: its true state, whatever that is."""
        return self._look(pods, fresh=False)

    def ended_lately(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        """Return answers only for Pods whose task instance has ended since the last time, or is not known.

        Of these Pods an earlier `look` must have found the task instance; others are not asked about.
        """
        found = [self._resolved.get(pod.uid) for pod in pods]
        known, places = list(compress(pods, found)), [place for place in found if place is not None]
        if not known:
            return {}
        try:
            round_ = self._begin()
        except NoAnswerError as failed:
            return _unknown(known, failed)
        harvest = self._collect(round_, _wanted(places), Question(self._lately, whole=False))
        told = list(compress(known, harvest.tells(places)))
        answers = {pod.uid: self._ended(harvest, *self._resolved[pod.uid]) for pod in told}
        return self._identified(round_, told, {uid: answer for uid, answer in answers.items() if answer}, fresh=False)

    def ask_each(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        """Return a fresh answer for every Pod, identity included: to confirm what is due."""
        one_by_one = len(pods) <= SINGLY
        ready = [pod for pod in pods if one_by_one and self._is_askable(pod.uid)]
        taken = {pod.uid for pod in ready}
        answers = self._look([pod for pod in pods if pod.uid not in taken], fresh=True)
        if not ready:
            return answers
        try:
            return answers | self._singly(self._begin(), ready)
        except NoAnswerError as failed:
            return answers | _unknown(ready, failed)

    def current(self, cases: Sequence[tuple[Pod, TaskInstance]]) -> dict[str, Identity]:
        """Return which Pod the latest try of each task instance uses, by the uid of the Pod that is in question."""
        try:
            round_ = self._begin()
        except NoAnswerError as failed:
            return {pod.uid: Identity(failed=str(failed)) for pod, _ in cases}
        named = side_by_side(lambda case: self._identities.current(round_, case[1]), cases)
        self._after(round_)
        return {pod.uid: identity for (pod, _), identity in zip(cases, named, strict=True)}

    def _is_askable(self, uid: str) -> bool:
        return uid in self._resolved and askable(self._resolved[uid][0])

    # --- the steps of a question ---

    def _begin(self) -> Round:
        """Raises NoAnswerError where no question makes sense: unknown version, refused login, dead server."""
        return Round(self._client, self._versions.now())

    def _look(self, pods: Sequence[Pod], *, fresh: bool) -> dict[str, Answer]:
        wishes, answers = _readable(pods)
        if not wishes:
            return answers
        try:
            round_ = self._begin()
        except NoAnswerError as failed:
            return answers | _unknown([wish.pod for wish in wishes], failed)
        spots = self._resolver.resolve(round_, [spot(wish.key, wish.pod.raw) for wish in wishes])
        answers |= self._found(round_, wishes, spots)
        self._remember(answers)
        return self._identified(round_, [wish.pod for wish in wishes], answers, fresh=fresh)

    def _found(self, round_: Round, wishes: Sequence[_Wish], spots: Mapping[Spot, Resolution]) -> dict[str, Answer]:
        """Ask the lists, then what the lists did not have."""
        answers: dict[str, Answer] = {}
        candidates = {wish.pod.uid: spots[spot(wish.key, wish.pod.raw)] for wish in wishes}
        wanted = _wanted((cell, w.key.map_index) for w in wishes for cell in candidates[w.pod.uid].cells)
        # The last candidate is the one that was found for every label; the others are the labels' own texts.
        unlikely = wanted.keys() - {resolution.cells[-1] for resolution in candidates.values() if resolution.cells}
        harvest = self._collect(round_, wanted, Question(_everything, whole=True), unlikely)
        missing = []
        for wish in wishes:
            resolution = candidates[wish.pod.uid]
            answer = _unresolved(resolution) or harvest.answer(wish.key, resolution.cells, proven=resolution.proven)
            if answer is None:
                missing.append(Missing(wish.pod.uid, resolution.cells, wish.key.map_index))
            else:
                answers[wish.pod.uid] = answer
        return answers | (Absence(round_).explain(missing) if missing else {})

    def _collect(self, round_: Round, wanted: Wanted, question: Question, unlikely: Collection[Cell] = ()) -> Harvest:
        harvest = Lister(round_, wanted, self._sizes, self._marks, unlikely).collect(question)
        self._after(round_)
        return harvest

    def _after(self, round_: Round) -> None:
        if round_.given_up:
            self._versions.doubt()

    def _remember(self, answers: Mapping[str, Answer]) -> None:
        """Keep the raw ids of what was found, alone, in a full answer; an answer that says otherwise undoes it."""
        for uid, answer in answers.items():
            if isinstance(answer, Known):
                task = answer.task
                cell = Cell(task.dag_id, task.run_id, task.task_id)
                self._resolved[uid] = self._cells.setdefault(cell, cell), task.map_index
            elif not isinstance(answer, Unknown):
                self._resolved.pop(uid, None)

    def _lately(self, chunk: Chunk) -> Mapping[str, object]:
        since = self._marks.since(chunk)
        states = {"state": sorted(ENDED)}
        return states | {"end_date_gte": since} if since else states

    def _ended(self, harvest: Harvest, cell: Cell, map_index: int) -> Answer | None:
        why = harvest.unanswered([cell], map_index)
        if why is not None:
            return Unknown(steady(), why)
        answer = harvest.row(cell, map_index)
        if isinstance(answer, Known) and answer.task.state is not UNSET and answer.task.state not in ENDED:
            return None
        return answer

    def _singly(self, round_: Round, pods: Sequence[Pod]) -> dict[str, Answer]:
        """Ask for each task instance; where it is gone, for its run and DAG."""
        found = side_by_side(lambda pod: self._one(round_, *self._resolved[pod.uid]), pods)
        answers = {pod.uid: answer for pod, answer in zip(pods, found, strict=True) if answer is not None}
        answers |= self._gone(round_, _readable([pod for pod in pods if pod.uid not in answers])[0])
        self._after(round_)
        return self._identified(round_, pods, answers, fresh=True)

    def _gone(self, round_: Round, wishes: Sequence[_Wish]) -> dict[str, Answer]:
        """Prove what is absent, of all that the labels may stand for and not only of what they once stood for."""
        if not wishes:
            return {}
        spots = self._resolver.resolve(round_, [spot(wish.key, wish.pod.raw) for wish in wishes])
        answers, missing = {}, []
        for wish in wishes:
            resolution = spots[spot(wish.key, wish.pod.raw)]
            answer = _unresolved(resolution)
            if answer is None:
                alone = len(resolution.cells) == 1
                missing.append(Missing(wish.pod.uid, resolution.cells, wish.key.map_index, asked=alone))
            else:
                answers[wish.pod.uid] = answer
        return answers | Absence(round_).explain(missing)

    @staticmethod
    def _one(round_: Round, cell: Cell, map_index: int) -> Answer | None:
        sent = steady()
        try:
            reply = ask_task_instance(round_, cell, map_index)
        except NoAnswerError as failed:
            return Unknown(sent, str(failed))
        return None if reply.value is None else Known(reply.sent, reply.value)

    def _identified(
        self, round_: Round, pods: Sequence[Pod], answers: Mapping[str, Answer], *, fresh: bool
    ) -> dict[str, Answer]:
        """Add to the answers which Pods Airflow names, where a rule wants to know."""
        wanting = [(pod, answer) for pod in pods if (answer := _wants_identity(pod, answers.get(pod.uid))) is not None]

        def ask(one: tuple[Pod, Known]) -> Identity:
            return self._identities.of(round_, one[0], one[1].task, fresh=fresh)

        named = side_by_side(ask, wanting)
        return dict(answers) | {
            pod.uid: Known(answer.sent, answer.task, identity)
            for (pod, answer), identity in zip(wanting, named, strict=True)
        }


def _wants_identity(pod: Pod, answer: Answer | None) -> Known | None:
    return answer if isinstance(answer, Known) and needs_identity(pod, answer.task) else None


def _everything(_: Chunk) -> Mapping[str, object]:
    return {}


def _wanted(places: Iterable[tuple[Cell, int]]) -> dict[Cell, set[int]]:
    wanted: dict[Cell, set[int]] = {}
    for cell, map_index in places:
        known = wanted.get(cell)
        if known is None:
            wanted[cell] = {map_index}
        else:
            known.add(map_index)
    return wanted


def _readable(pods: Sequence[Pod]) -> tuple[list[_Wish], dict[str, Answer]]:
    """Return the Pods whose labels can be read, and answers for the others."""
    wishes: list[_Wish] = []
    answers: dict[str, Answer] = {}
    for pod in pods:
        key = parse(pod.labels)
        if isinstance(key, str):
            answers[pod.uid] = Unknown(steady(), key)
        else:
            wishes.append(_Wish(pod, key))
    return wishes, answers


def _unresolved(resolution: Resolution) -> Answer | None:
    if resolution.failed is not None:
        return Unknown(steady(), resolution.failed)
    if resolution.unresolved is not None:
        return Ambiguous(steady(), resolution.unresolved)
    return None


def _unknown(pods: Iterable[Pod], failed: NoAnswerError) -> dict[str, Answer]:
    sent = steady()
    return {pod.uid: Unknown(sent, str(failed)) for pod in pods}
