# ruff: noqa: E501, ISC004 - code is quoted as it stands, line by line
"""Bugs in the Airflow client and in the labels: what is taken for an answer, and for whose."""

from __future__ import annotations

from tests.simulation.planted.bugs import bug

BUGS = (
    bug(
        "404 taken as proof",
        "any 404 counts as proof that the run does not exist, a proxy's too",
        (
            "airflow.queries.lookups",
            "    reply = session.ask(session.dialect.run(dag_id, run_id))\n    if reply.missing:\n",
            "    reply = session.ask(session.dialect.run(dag_id, run_id))\n    if reply.status == 404:\n",
        ),
    ),
    bug(
        "not in the list, not in Airflow",
        "a task instance that no list has counts as one of a deleted run: lists omit what the token may not read",
        (
            "airflow.service",
            "        answers = Absence(apart, self._absence).explain(missing)\n",
            "        answers: dict[str, Answer] = {\n"
            "            pod.uid: RunDeleted(boottime(), pod.task_keys[-1].dag_id, pod.task_keys[-1].run_id) for pod in missing\n"
            "        }\n",
        ),
        (
            "airflow.service",
            "NamedPods, Pod, TaskInstance, Unknown\n",
            "NamedPods, Pod, RunDeleted, TaskInstance, Unknown\n",
        ),
    ),
    bug(
        "DAG not asked for",
        "a run that is missing counts as deleted, whether its DAG can be read or not",
        (
            "airflow.queries.absence",
            "deleted = [task_key for task_key in pod.task_keys if _yes(self._still.get(task_key.dag_id))]",
            "deleted = list(pod.task_keys)",
        ),
        ("airflow.queries.absence", "if not _yes(dag) or not pod.run_known:", "if not pod.run_known:"),
        (
            "airflow.queries.absence",
            "for task_key in known if _yes(self._dags[task_key.dag_id])}",
            "for task_key in known}",
        ),
    ),
    bug(
        "label without hash",
        "labels are compared by what stands before the hash: long ids that begin alike are mixed up",
        (
            "airflow.queries.results",
            "label = self._labels[raw] = safe_label(raw)",
            "label = self._labels[raw] = safe_label(raw)[:53]",
        ),
        (
            "airflow.queries.results",
            "self._by_label.get((key.dag_id, key.run_id, key.task_id, key.map_index), [])",
            "self._by_label.get((key.dag_id[:53], key.run_id[:53], key.task_id[:53], key.map_index), [])[:1]",
        ),
        (
            "airflow.queries.resolver",
            "        label = safe_label(raw)\n        found[label]",
            "        label = safe_label(raw)\n        label = next((known for known in found if known[:53] == label[:53]), label)\n        found[label]",
        ),
        (
            "decision.rules",
            "and safe_label(task.task_id) == key.task_id",
            "and safe_label(task.task_id)[:53] == key.task_id[:53]",
        ),
    ),
    bug(
        "twin hidden by the state filter",
        "whether labels fit one task instance alone is concluded from those that have ended",
        (
            "airflow.service",
            "result = self._collect(session, wanted, Question(_everything, whole=True), speculative)",
            'result = self._collect(session, wanted, Question(lambda _: {"state": sorted(ENDED)}, whole=True), speculative)',
        ),
    ),
    bug(
        "first of the twins",
        "of several task instances that the labels fit the first is taken",
        (
            "airflow.queries.results",
            "        if len(found) > 1:\n            return Ambiguous",
            "        if False:\n            return Ambiguous",
        ),
    ),
    bug(
        "map index ignored",
        "mapped task instances of one task are taken for one another",
        (
            "airflow.queries.results",
            "return self._safe(dag), self._safe(run), self._safe(task), map_index",
            "return self._safe(dag), self._safe(run), self._safe(task), -1",
        ),
        (
            "airflow.queries.results",
            "self._by_label.get((key.dag_id, key.run_id, key.task_id, key.map_index), [])",
            "self._by_label.get((key.dag_id, key.run_id, key.task_id, -1), [])[:1]",
        ),
        ("decision.rules", "        and key.map_index == task.map_index\n", ""),
    ),
    bug(
        "short pages are pages",
        "a list that was cut off counts as whole",
        ("airflow.api.schema", "return len(self) < self.total", "return False"),
        (
            "airflow.queries.absence",
            "            if not pod.asked\n            and pod.unresolved is None\n"
            "            and any(self._run_is_there(task_key) for task_key in pod.task_keys)\n",
            "            if False\n",
        ),
        (
            "airflow.queries.absence",
            'return Absent(self._since, f"run {there.run_id!r} exists, and has no such task instance")',
            "return RunDeleted(self._since, there.dag_id, there.run_id)",
        ),
    ),
    bug(
        "another row is good too",
        "a single question believes whatever row comes back",
        (
            "airflow.queries.lookups",
            "    if (row.dag_id, row.run_id, row.task_id, row.map_index) != (*task_key, map_index):\n",
            "    if False:\n",
        ),
        ("decision.rules", "    if not _fits(case.key, task):\n", "    if False:\n"),
    ),
    bug(
        "identity error is silence",
        "where a source of the identity fails, it is taken for one that names no Pod",
        (
            "airflow.queries.identity",
            "    except NoAnswerError as failed:\n        return Heard(NamedPods(failed=str(failed)), failure=failed)\n",
            "    except NoAnswerError:\n        return Heard(NamedPods())\n",
        ),
    ),
    bug(
        "evidence from the reply",
        "an answer is dated when it came, not when it was asked for",
        (
            "airflow.api.client",
            "            return AirflowReply(raw.status, raw.sent, value=decode(raw.body), date=raw.date)",
            "            return AirflowReply(raw.status, boottime(), value=decode(raw.body), date=raw.date)",
        ),
    ),
    bug(
        "evidence of the last request",
        "an answer that rests on several requests is dated by the youngest of them",
        (
            "airflow.service",
            "pod.uid: Known(answer.sent, answer.task, named[key],",
            "pod.uid: Known(boottime(), answer.task, named[key],",
        ),
    ),
)
