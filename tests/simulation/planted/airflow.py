# ruff: noqa: E501, ISC004 - code is quoted as it stands, line by line
"""Bugs in the Airflow client and in the labels: what is taken for an answer, and for whose."""

from __future__ import annotations

from tests.simulation.planted.bugs import bug

BUGS = (
    bug(
        "404 taken as proof",
        "any 404 counts as proof that the run does not exist, a proxy's too",
        (
            "airflow.missing",
            '        reply.status == 404\n        and reply.detail == f"The DagRun with dag_id: `{dag_id}` and run_id: `{run_id}` was not found"\n',
            "        reply.status == 404\n",
        ),
    ),
    bug(
        "not in the list, not in Airflow",
        "a task instance that no list has counts as one of a deleted run: lists omit what the token may not read",
        (
            "airflow.service",
            "        return answers | (Absence(round_).explain(missing) if missing else {})",
            "        gone = {pod.uid: RunDeleted(steady(), pod.cells[-1].dag_id, pod.cells[-1].run_id) for pod in missing}\n"
            "        return answers | gone",
        ),
        (
            "airflow.service",
            "        return answers | Absence(round_).explain(missing)\n",
            "        gone = {pod.uid: RunDeleted(steady(), pod.cells[-1].dag_id, pod.cells[-1].run_id) for pod in missing}\n"
            "        return answers | gone\n",
        ),
        (
            "airflow.service",
            "LabelKey, Pod, TaskInstance, Unknown\n",
            "LabelKey, Pod, RunDeleted, TaskInstance, Unknown\n",
        ),
    ),
    bug(
        "DAG not asked for",
        "a run that is missing counts as deleted, whether its DAG can be read or not",
        (
            "airflow.absence",
            "deleted = [cell for cell in pod.cells if _yes(self._still.get(cell.dag_id))]",
            "deleted = list(pod.cells)",
        ),
        ("airflow.absence", "        if not _yes(dag):\n            return dag\n", ""),
    ),
    bug(
        "label without hash",
        "labels are compared by what stands before the hash: long ids that begin alike are mixed up",
        (
            "airflow.harvest",
            "label = self._labels[raw] = safe_label(raw)",
            "label = self._labels[raw] = safe_label(raw)[:53]",
        ),
        (
            "airflow.harvest",
            "self._by_label.get((key.dag_id, key.run_id, key.task_id, key.map_index), [])",
            "self._by_label.get((key.dag_id[:53], key.run_id[:53], key.task_id[:53], key.map_index), [])[:1]",
        ),
        (
            "airflow.resolve",
            "        label = safe_label(raw)\n        found[label]",
            "        label = safe_label(raw)\n        label = next((known for known in found if known[:53] == label[:53]), label)\n        found[label]",
        ),
        (
            "rules",
            "and safe_label(task.task_id) == key.task_id",
            "and safe_label(task.task_id)[:53] == key.task_id[:53]",
        ),
    ),
    bug(
        "twin hidden by the state filter",
        "whether labels fit one task instance alone is concluded from those that have ended",
        (
            "airflow.service",
            "harvest = self._collect(round_, wanted, Question(_everything, whole=True), unlikely)",
            'harvest = self._collect(round_, wanted, Question(lambda _: {"state": sorted(ENDED)}, whole=True), unlikely)',
        ),
    ),
    bug(
        "first of the twins",
        "of several task instances that the labels fit the first is taken",
        (
            "airflow.harvest",
            "        if len(found) > 1:\n            return Ambiguous",
            "        if False:\n            return Ambiguous",
        ),
    ),
    bug(
        "map index ignored",
        "mapped task instances of one task are taken for one another",
        (
            "airflow.harvest",
            "return self._safe(dag), self._safe(run), self._safe(task), map_index",
            "return self._safe(dag), self._safe(run), self._safe(task), -1",
        ),
        (
            "airflow.harvest",
            "self._by_label.get((key.dag_id, key.run_id, key.task_id, key.map_index), [])",
            "self._by_label.get((key.dag_id, key.run_id, key.task_id, -1), [])[:1]",
        ),
        ("rules", "        and key.map_index == task.map_index\n", ""),
    ),
    bug(
        "short pages are pages",
        "a list that was cut off counts as whole",
        ("airflow.rows", "return len(self) < self.total", "return False"),
        (
            "airflow.absence",
            "doubtful = [pod for pod in missing if not pod.asked and any(self._run_is_there(c) for c in pod.cells)]",
            "doubtful: list[Missing] = []",
        ),
        (
            "airflow.absence",
            'return Absent(self._since, f"run {there.run_id!r} exists, and has no such task instance")',
            "return RunDeleted(self._since, there.dag_id, there.run_id)",
        ),
    ),
    bug(
        "another row is good too",
        "a single question believes whatever row comes back",
        (
            "airflow.singles",
            "    if (row.dag_id, row.run_id, row.task_id, row.map_index) != (*cell, map_index):\n",
            "    if False:\n",
        ),
        ("rules", "    if not _fits(case.key, task):\n", "    if False:\n"),
    ),
    bug(
        "identity error is silence",
        "where a source of the identity fails, it is taken for one that names no Pod",
        (
            "airflow.identity",
            "    except NoAnswerError as failed:\n        return Identity(failed=str(failed))\n",
            "    except NoAnswerError:\n        return Identity()\n",
        ),
    ),
    bug(
        "evidence from the reply",
        "an answer is dated when it came, not when it was asked for",
        (
            "airflow.client",
            "            return Reply(raw.status, raw.sent, value=decode(raw.body), date=raw.date)",
            "            return Reply(raw.status, steady(), value=decode(raw.body), date=raw.date)",
        ),
    ),
    bug(
        "evidence of the last request",
        "an answer that rests on several requests is dated by the youngest of them",
        (
            "airflow.service",
            "pod.uid: Known(answer.sent, answer.task, identity)",
            "pod.uid: Known(steady(), answer.task, identity)",
        ),
    ),
)
