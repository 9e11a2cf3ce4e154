"""What the rest of the healer asks of one Airflow: three questions, each about many Pods, each answered for every Pod.

No question raises for what a server does: the answer is then Unknown, with a sentence that says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any
from uuid import uuid4

from msgspec import UNSET, Struct
from msgspec.structs import replace

from healer.airflow.api.credentials import CredentialLife
from healer.airflow.api.reply import AirflowReply
from healer.airflow.api.reporting_client import Failed, ReportingClient, untold
from healer.airflow.api.schema import TaskInstancePage
from healer.airflow.api.task_key import TaskKey, TaskKeys, is_addressable
from healer.airflow.api.transport import ObserveCall, ignore
from healer.airflow.check import Probe, probe
from healer.airflow.notes import NoteResult, write_note
from healer.airflow.queries.absence import Absence, AbsenceTurns, UnlistedPod
from healer.airflow.queries.batching import BatchLimits, batches
from healer.airflow.queries.identity import Heard, NamedPodsCache
from healer.airflow.queries.list_query import ListQuery, Question, SizeHints, WantedIndices
from healer.airflow.queries.lookups import ask_task_instance
from healer.airflow.queries.resolver import Resolution, Resolver, TaskLabels, task_labels
from healer.airflow.queries.results import QueryResult
from healer.airflow.queries.session import NOBODY, QuerySession, VersionCache, map_concurrently
from healer.airflow.queries.set_aside import Aside
from healer.airflow.queries.turns import Turns, ask_in_turn
from healer.airflow.queries.watermarks import Watermarks
from healer.clock import boottime
from healer.config import AirflowConfig
from healer.decision.labels import parse
from healer.decision.rules import ENDED, may_prove_itself, needs_identity
from healer.errors import FailureScope, LeftAloneError, LoginRefusedError, NoAnswerError
from healer.model import Ambiguous, Answer, Known, LabelKey, NamedPods, Pod, TaskInstance, Unknown

MAX_SINGLE_LOOKUPS = 100
"""Pods up to which `get_each` asks for the very task instances that were found. Beyond, as `get_all` does."""

FEWEST_LISTED = 6
"""Task instances from which on one list costs the server less than as many single questions. Fewer are asked for one by
one: that leaves no row in Airflow's audit table."""

BATCH = BatchLimits(dags=20, runs=20, rows=100)
"""For lists of single task instances: what else they select, by their cross product, must cost less than is saved."""

MOST_ROWS = 200
"""Rows of one such list. With more it is cut off, and then single questions tell."""

MOST_IDENTITIES = 5000
"""Pods for which Airflow is asked in one question which Pod it names; of each that is asked once per try."""


class _PodQuery(Struct, frozen=True):
    """A Pod whose labels can be read."""

    pod: Pod
    key: LabelKey


class Airflow:
    """One Airflow. Keeps the login, the version, resolved ids, identities and watermarks; forgets at each audit.

    Its questions are for one thread at a time; within, a few requests run side by side, and `observe` is called from
    their threads, as is `failed` with each failure to answer.
    """

    def __init__(self, config: AirflowConfig, *, observe: ObserveCall = ignore, failed: Failed = untold) -> None:
        self._config, self._failed = config, failed
        self._client = ReportingClient(config, observe, failed)
        self._versions = VersionCache(self._client)
        self._resolver = Resolver()
        self._identities = NamedPodsCache()
        self._watermarks = Watermarks()
        self._size_hints = SizeHints()
        self._aside = Aside()
        self._absence = AbsenceTurns()
        self._naming: Turns[tuple[str, str]] = Turns("which Pod Airflow names", lambda pod: pod[0])
        self.refuted: Collection[str] = ()
        """Namespaces where another Airflow's Pods were seen: there a name proves whose a Pod is, so it is asked for."""
        self._is_listing_slow = False
        self._resolved: dict[str, tuple[TaskKey, int]] = {}
        self._task_keys: dict[TaskKey, TaskKey] = {}

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self._config.name

    @property
    def version(self) -> str | None:
        """The version last seen, None before the first answer."""
        return self._versions.text

    @property
    def credential(self) -> CredentialLife:
        """What is known of the credential that was used last."""
        return self._client.credential

    @property
    def set_aside(self) -> int:
        """How many task instances, runs, DAGs and look-ups are asked about alone and last, as that has failed."""
        return len(self._aside) + sum(len(turns.failed) for turns in self._turns())

    def troubles(self) -> dict[str, str]:
        """Return what is set aside, by kind, each with the sentence of its newest failure."""
        kinds: list[Turns[Any]] = [self._aside.turns, self._aside.indices, *self._turns()]
        return {turns.kind: next(reversed(turns.failed.values())) for turns in kinds if turns.failed}

    def _turns(self) -> list[Turns[Any]]:
        """All but those of the lists, where one cell may fail in more than one way."""
        found, lookups = self._absence, self._resolver
        of_ids = (lookups.turns_of_dags, lookups.turns_of_tasks, lookups.turns_of_runs, lookups.turns_of_a_run)
        return [found.dags, found.runs, found.pods, *of_ids, self._naming]

    def login(self) -> str | None:
        """Make sure that we get in. Raises AirflowRefused if the login is refused.

        Whatever else goes wrong is no refusal: it is returned as a sentence, None if all is well.
        """
        try:
            self._versions.now()  # it says how to log in
            self._client.log_in()
        except LoginRefusedError:
            raise
        except NoAnswerError as failed:
            return str(failed)
        return None

    def write_note(self, task: TaskInstance, text: str) -> NoteResult:
        """Note a line on a task instance, unless a user has noted something there. Safe to call from another thread.

        Raises NoAnswerError.
        """
        self._versions.now()
        return write_note(self._client, task, text)

    def probe(self) -> Probe:
        """Return what works and what does not, for `check`."""
        return probe(self._client, self._config)

    def start_audit(self) -> None:
        """Forget what could not be resolved and what may have changed, so that the next `get_all` asks anew."""
        self._versions.invalidate()
        self._client.start_audit()
        self._resolver.start_audit()
        self._identities.start_audit()
        self._is_listing_slow = False
        self._task_keys = {task_key: task_key for task_key, _ in self._resolved.values()}
        task_keys = set(self._task_keys)
        self._watermarks.keep_only(task_keys)
        self._size_hints.start_audit(task_keys)
        self._aside.start_audit()
        for turns in self._turns():
            turns.start_audit()

    def forget(self, uids: Iterable[str]) -> None:
        """Forget Pods that are gone."""
        for uid in uids:
            self._resolved.pop(uid, None)
            self._identities.forget(uid)

    def get_all(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        """Return a full answer for every Pod, by uid: its true state, whatever that is."""
        return self._get_all(pods, fresh=False)

    def list_recently_ended(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        """Return answers only for Pods whose task instance has ended since the last time, or is not known.

        Of these Pods an earlier `get_all` must have found the task instance; others are not asked about.
        """
        found = [self._resolved.get(pod.uid) for pod in pods]
        known, places = list(compress(pods, found)), [place for place in found if place is not None]
        if not known:
            return {}
        try:
            session = self._begin()
        except NoAnswerError as failed:
            return _unknown(known, failed)
        result = self._collect(session, _wanted_indices(places), Question(self._ended_filters, whole=False))
        self._end(session)
        told = list(compress(known, result.is_mentioned(places)))
        answers = {pod.uid: self._ended(session, result, *self._resolved[pod.uid]) for pod in told}
        return self._identified(session, told, {uid: answer for uid, answer in answers.items() if answer}, fresh=False)

    def get_each(self, pods: Sequence[Pod]) -> dict[str, Answer]:
        """Return a fresh answer for every Pod: to see again what is suspected, and to confirm what is due.

        Identity is asked anew too, unless it can't have become another one: see `NamedPodsCache.known`.
        """
        one_by_one = len(pods) <= MAX_SINGLE_LOOKUPS
        ready = [pod for pod in pods if one_by_one and self._is_addressable(pod.uid)]
        taken = {pod.uid for pod in ready}
        answers = self._get_all([pod for pod in pods if pod.uid not in taken], fresh=True)
        if not ready:
            return answers
        try:
            return answers | self._singly(self._begin(), ready)
        except NoAnswerError as failed:
            return answers | _unknown(ready, failed)

    def get_current_pods(self, cases: Sequence[tuple[Pod, TaskInstance]]) -> dict[str, NamedPods]:
        """Return which Pod the latest try of each task instance uses, by the uid of the Pod that is in question."""
        try:
            session = self._begin()
        except NoAnswerError as failed:
            return {pod.uid: NamedPods(failed=str(failed)) for pod, _ in cases}
        named = self._identities.current(session, [task for _, task in cases])
        self._end(session)
        return {pod.uid: identity for (pod, _), identity in zip(cases, named, strict=True)}

    def _is_addressable(self, uid: str) -> bool:
        return uid in self._resolved and is_addressable(self._resolved[uid][0])

    # --- the steps of a question ---

    def _begin(self) -> QuerySession:
        """Raises NoAnswerError where no question makes sense: unknown version, refused login, dead server."""
        try:
            return QuerySession(self._client, self._versions.now())
        except NoAnswerError as failure:  # also of a version that is not known here, which the client does not judge
            self._failed(failure)
            raise

    def _get_all(self, pods: Sequence[Pod], *, fresh: bool) -> dict[str, Answer]:
        queries, answers = _readable(pods)
        if not queries:
            return answers
        try:
            session = self._begin()
        except NoAnswerError as failed:
            return answers | _unknown([query.pod for query in queries], failed)
        resolved = self._resolve(session, queries)
        answers |= self._found(session, queries, resolved)
        self._end(session)
        self._remember(answers)
        return self._identified(session, [query.pod for query in queries], answers, fresh=fresh)

    def _found(
        self, session: QuerySession, queries: Sequence[_PodQuery], resolved: Mapping[TaskLabels, Resolution]
    ) -> dict[str, Answer]:
        """Ask the lists, then what the lists did not have."""
        answers: dict[str, Answer] = {}
        candidates = {query.pod.uid: resolved[task_labels(query.key, query.pod.raw)] for query in queries}
        known = {uid: found.task_keys for uid, found in candidates.items() if found.task_keys and not found.unresolved}
        wanted = _wanted_indices(
            (task_key, query.key.map_index) for query in queries for task_key in known.get(query.pod.uid, ())
        )
        # The last candidate is the one that was found for every label; the others are the labels' own texts.
        speculative = wanted.keys() - {task_keys[-1] for task_keys in known.values()}
        result = self._collect(session, wanted, Question(_everything, whole=True), speculative)
        missing = []
        for query in queries:
            resolution = candidates[query.pod.uid]
            answer = _unresolved(session, resolution)
            if query.pod.uid in known:
                answer = result.answer(query.key, resolution.task_keys, proven=resolution.proven)
            if answer is None:
                missing.append(_unlisted(query, resolution))
            else:
                answers[query.pod.uid] = _not_younger(answer, resolution.sent)
        return answers | self._explained(session, missing)

    def _resolve(self, session: QuerySession, queries: Sequence[_PodQuery]) -> Mapping[TaskLabels, Resolution]:
        """Resolve labels. Look-ups that are slow are no reason to ask nothing of what is known."""
        apart = self._apart(session)
        resolved = self._resolver.resolve(apart, [task_labels(query.key, query.pod.raw) for query in queries])
        self._end_apart(apart, session)
        return resolved

    def _explained(self, session: QuerySession, missing: Sequence[UnlistedPod]) -> dict[str, Answer]:
        """Prove what is absent. Lists that were slow are no reason not to."""
        if not missing:
            return {}
        apart = self._apart(session)
        answers = Absence(apart, self._absence).explain(missing)
        self._end(apart)
        return answers

    def _collect(
        self, session: QuerySession, wanted: WantedIndices, question: Question, speculative: Collection[TaskKey] = ()
    ) -> QueryResult:
        return ListQuery(session, wanted, self._size_hints, self._watermarks, self._aside, speculative).collect(
            question
        )

    def _end(self, session: QuerySession) -> None:
        """Set aside what has failed; ask a server that has failed for its version anew."""
        session.settle()
        if session.aborted:
            self._versions.invalidate()

    def _end_apart(self, apart: QuerySession, session: QuerySession) -> None:
        """End a round of its own; where the server itself has failed, the other one is over too."""
        self._end(apart)
        if apart.aborted is not None and not apart.is_only_slow():
            session.aborted = apart.aborted

    def _remember(self, answers: Mapping[str, Answer]) -> None:
        """Keep the raw ids of what was found, alone, in a full answer; an answer that says otherwise undoes it."""
        for uid, answer in answers.items():
            if isinstance(answer, Known):
                task = answer.task
                task_key = _cell(task)
                self._resolved[uid] = self._task_keys.setdefault(task_key, task_key), task.map_index
            elif not isinstance(answer, Unknown):
                self._resolved.pop(uid, None)

    def _ended_filters(self, batch: TaskKeys) -> Mapping[str, object]:
        since = self._watermarks.since(batch)
        states = {"state": sorted(ENDED)}
        return states | {"end_date_gte": since} if since else states

    def _ended(self, session: QuerySession, result: QueryResult, task_key: TaskKey, map_index: int) -> Answer | None:
        why = result.unanswered([task_key], map_index)
        if why is not None:
            return Unknown(session.began, why)
        answer = result.row(task_key, map_index)
        if isinstance(answer, Known) and answer.task.state is not UNSET and answer.task.state not in ENDED:
            return None
        return answer

    def _singly(self, session: QuerySession, pods: Sequence[Pod]) -> dict[str, Answer]:
        """Ask for each task instance, those of a batch in one list; where it is gone, for its run and DAG."""
        listed = len(pods) >= FEWEST_LISTED and not self._is_listing_slow
        answers = self._listed(session, pods) if listed else {}
        rest = [pod for pod in pods if pod.uid not in answers]
        found = map_concurrently(lambda pod: self._one(session, *self._resolved[pod.uid]), rest)
        answers |= {pod.uid: answer for pod, answer in zip(rest, found, strict=True) if answer is not None}
        answers |= self._gone(session, _readable([pod for pod in pods if pod.uid not in answers])[0])
        self._end(session)
        return self._identified(session, pods, answers, fresh=True)

    def _listed(self, session: QuerySession, pods: Sequence[Pod]) -> dict[str, Answer]:
        """Return what lists say of these Pods' task instances. Whatever they do not say is left to single questions.

        A row is as good from a list as from a single question: it is the server's own, and read after the list was
        sent, since nothing on the way can have an answer to a list that was never asked before. That a list does not
        have a row, is cut off or fails says nothing here; so it is not asked in halves either, and lists that are slow
        are no reason to ask nothing else, and are not waited for again before the next audit. Only what has ended is
        listed, as most that is suspected has: of the tasks that a list selects by chance most have not.
        """
        places = {pod.uid: self._resolved[pod.uid] for pod in pods}
        wanted = _wanted_indices(places.values())
        rows = {task_key: self._size_hints.expected(task_key, len(indices)) for task_key, indices in wanted.items()}
        resting = self._aside.turns.resting
        fitting = [
            task_key for task_key, expected in rows.items() if expected <= BATCH.rows and task_key not in resting
        ]
        lists = [
            batch
            for batch in batches(fitting, BATCH, rows.__getitem__)
            if sum(len(wanted[task_key]) for task_key in batch) >= FEWEST_LISTED
        ]
        result, apart = QueryResult(session.began), self._apart(session)

        def ask(batch: TaskKeys) -> AirflowReply[TaskInstancePage] | None:
            tasks = [*{task_key.task_id for task_key in batch}, f"{NOBODY}-{uuid4()}"]
            filters = {"task_ids": tasks, "state": sorted(ENDED), "page_limit": MOST_ROWS}
            try:
                return apart.get_ok(apart.dialect.listed(batch, filters))
            except NoAnswerError as failed:
                self._is_listing_slow |= failed.scope is FailureScope.SLOW or isinstance(failed, LeftAloneError)
                return None

        for batch, reply in zip(lists, map_concurrently(ask, lists), strict=True):
            if reply is not None and not reply.known.short:
                result.add(batch, reply.known, reply.sent)
        self._end_apart(apart, session)
        found = {uid: result.row(*place) for uid, place in places.items()}
        return {uid: answer for uid, answer in found.items() if answer is not None}

    def _gone(self, session: QuerySession, queries: Sequence[_PodQuery]) -> dict[str, Answer]:
        """Prove what is absent, of all that the labels may stand for and not only of what they once stood for."""
        if not queries:
            return {}
        resolved = self._resolve(session, queries)
        answers, missing = {}, []
        for query in queries:
            resolution = resolved[task_labels(query.key, query.pod.raw)]
            answer = _unresolved(session, resolution)
            if answer is None:
                missing.append(_unlisted(query, resolution, asked=len(resolution.task_keys) == 1))
            else:
                answers[query.pod.uid] = answer
        return answers | self._explained(session, missing)

    def _one(self, session: QuerySession, task_key: TaskKey, map_index: int) -> Answer | None:
        if task_key in self._aside.turns.resting:
            return Unknown(session.began, str(self._aside.turns.waits(task_key)))
        try:
            reply = ask_task_instance(session, task_key, map_index)
        except NoAnswerError as failed:
            self._aside.pause([task_key], failed)
            return Unknown(session.began, str(failed))
        return None if reply.value is None else Known(reply.sent, reply.value)

    def _wants_identity(self, pod: Pod, answer: Answer | None) -> Known | None:
        if not isinstance(answer, Known):
            return None
        refuted = pod.namespace in self.refuted
        wanted = needs_identity(pod, answer.task) or may_prove_itself(pod, answer.task, refuted=refuted)
        return answer if wanted else None

    def _identified(
        self, session: QuerySession, pods: Sequence[Pod], answers: Mapping[str, Answer], *, fresh: bool
    ) -> dict[str, Answer]:
        """Add to the answers which Pods Airflow names, where a rule wants to know."""
        wanting = {
            (answer.task.dag_id, pod.uid): (pod, answer)
            for pod in pods
            if (answer := self._wants_identity(pod, answers.get(pod.uid))) is not None
        }
        if not wanting:
            return dict(answers)
        apart = self._apart(session)
        remembered = {
            key: known
            for key, one in wanting.items()
            if (known := self._identities.known(one[0], one[1].task, fresh=fresh))
        }
        named = {key: identity for key, (identity, _) in remembered.items()}

        def ask(key: tuple[str, str]) -> Heard:
            heard = self._identities.hear(apart, wanting[key][0], wanting[key][1].task)
            if heard.failure is not None:
                raise heard.failure
            return heard

        told = ask_in_turn(apart, self._naming, [key for key in wanting if key not in named], MOST_IDENTITIES, ask)
        failed = {key: one for key, one in told.items() if isinstance(one, NoAnswerError)}
        heard = {key: one for key, one in told.items() if not isinstance(one, NoAnswerError)}
        cases = [(wanting[key][0], wanting[key][1].task, one) for key, one in heard.items()]
        named |= zip(heard, self._identities.prove(self._apart(apart), cases), strict=True)
        named |= {key: NamedPods(failed=str(why)) for key, why in failed.items()}
        self._end(apart)
        return dict(answers) | {
            pod.uid: Known(answer.sent, answer.task, named[key], heard=_heard(remembered.get(key)))
            for key, (pod, answer) in wanting.items()
        }

    def _apart(self, session: QuerySession) -> QuerySession:
        """Return a round whose timeouts are its own: slow lists are no reason to ask nobody who is named.

        A server that answers nothing any more is one: its timeouts are waited for once, not for each kind of question.
        It begins with the other one: what it tells may rest on what that has asked.
        """
        return session if session.aborted is not None and not session.is_only_slow() else session.apart()


def _cell(task: TaskInstance) -> TaskKey:
    return TaskKey(task.dag_id, task.run_id, task.task_id)


def _heard(remembered: tuple[NamedPods, float] | None) -> float | None:
    return remembered[1] if remembered is not None else None


def _everything(_: TaskKeys) -> Mapping[str, object]:
    return {}


def _wanted_indices(places: Iterable[tuple[TaskKey, int]]) -> dict[TaskKey, set[int]]:
    wanted: dict[TaskKey, set[int]] = {}
    for task_key, map_index in places:
        known = wanted.get(task_key)
        if known is None:
            wanted[task_key] = {map_index}
        else:
            known.add(map_index)
    return wanted


def _readable(pods: Sequence[Pod]) -> tuple[list[_PodQuery], dict[str, Answer]]:
    """Return the Pods whose labels can be read, and answers for the others."""
    queries: list[_PodQuery] = []
    answers: dict[str, Answer] = {}
    for pod in pods:
        key = parse(pod.labels)
        if isinstance(key, str):
            answers[pod.uid] = Unknown(boottime(), key)
        else:
            queries.append(_PodQuery(pod, key))
    return queries, answers


def _unresolved(session: QuerySession, resolution: Resolution) -> Answer | None:
    if resolution.failed is not None:
        return Unknown(session.began, resolution.failed)
    if resolution.unresolved is not None and not resolution.task_keys:
        return Ambiguous(session.began, resolution.unresolved)
    return None


def _unlisted(query: _PodQuery, resolution: Resolution, *, asked: bool = False) -> UnlistedPod:
    return UnlistedPod(
        query.pod.uid, resolution.task_keys, query.key.map_index, asked, resolution.unresolved, resolution.run_known
    )


def _not_younger(answer: Answer, sent: float | None) -> Answer:
    """Return the answer, dated no later than a request that it rests on."""
    return answer if sent is None or answer.sent <= sent else replace(answer, sent=sent)


def _unknown(pods: Iterable[Pod], failed: NoAnswerError) -> dict[str, Answer]:
    sent = boottime()
    return {pod.uid: Unknown(sent, str(failed)) for pod in pods}
