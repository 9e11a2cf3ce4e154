# ruff: noqa: E501, ISC004 - code is quoted as it stands, line by line
"""Bugs that a walk can't show, or hardly: each is planted, and tests that are named here must fail.

`python -m tests.simulation.planted.tested` tries all; exit code 1 if one gets away. A model of a few task instances has
no second page, no cap that is reached and no thread between two steps; tests of those modules have.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tests.simulation.planted import neighbours, second
from tests.simulation.planted.bugs import Bug, bug
from tests.simulation.planted.sowing import plant


class ByTests(NamedTuple):
    """A bug, and the tests that must fail with it."""

    bug: Bug
    tests: tuple[str, ...]


def tested(made: Bug, *tests: str) -> ByTests:
    """Return a bug with its tests."""
    return ByTests(made, tests)


_ELSEWHERE = frozenset({"a bad row stops the rest", "set aside for ever", "403 believed without proof"})
"""Bugs of the neighbours that are tried with other tests than the scenes."""

TESTED = (
    tested(
        bug(
            "namespaces of an old list",
            "where a pattern stands for a namespace it is decided on, though the last LIST of namespaces failed",
            ("informer.namespaces", "        return replace(self, problem=problem)\n", "        return self\n"),
        ),
        "tests/unit/informer/test_namespaces.py",
    ),
    tested(
        bug(
            "vanished namespace remembered",
            "the Pods of a namespace that is gone stay in the store",
            ("informer.resync", "                self._store.forget(name)\n", "                pass\n"),
        ),
        "tests/unit/informer/test_namespaces.py",
    ),
    tested(
        bug(
            "late LIST of a vanished namespace",
            "the answer to a LIST counts, though the namespace was found gone while it was under way",
            ("informer.resync", "            if self._listers.get(namespace) is not lister:", "            if False:"),
        ),
        "tests/unit/informer/test_namespaces.py",
    ),
    tested(
        bug(
            "event of a namesake",
            "what the watch of a vanished namespace still tells counts for the one of its name that came after it",
            (
                "informer.store",
                'listed = self._listed.get(pod.namespace, "") if self._listed_only and listed_since is None else ""',
                'listed = ""',
            ),
        ),
        "tests/unit/informer/test_namespaces.py",
    ),
    tested(
        bug(
            "selector on the first page only",
            "the second page of a LIST is asked for without the selector",
            (
                "cluster.client",
                'query = {**query, "continue": page.continue_token}',
                'query = {"limit": str(PAGE_SIZE), "continue": page.continue_token}',
            ),
        ),
        "tests/unit/deletion/test_last_checks.py",
    ),
    tested(
        bug(
            "selector not checked by the deleter",
            "the function that sends a DELETE does not look at the selector",
            ("deletion.pod_deleter", "        if not pod.selected:\n", "        if False:\n"),
        ),
        "tests/unit/deletion/test_last_checks.py",
    ),
    tested(
        bug(
            "idle mark cleared late",
            "the deleter says that it is busy only after its last check: a right that is lost in between goes unseen",
            (
                "deletion.pod_deleter",
                "        with self.under_way:  # before the check",
                "        if True:  # before the check",
            ),
            (
                "deletion.pod_deleter",
                "                return _to_result(pod, self._transport.send(_request(pod), last_check=last_check))\n",
                "                with self.under_way:\n"
                "                    return _to_result(pod, self._transport.send(_request(pod), last_check=last_check))\n",
            ),
        ),
        "tests/unit/deletion/test_last_checks.py",
    ),
    tested(
        bug(
            "dated by the youngest request",
            "an answer that rests on several requests is dated by the youngest",
            ("airflow.queries.results", "return min([*sent, *(self._of_rows", "return max([*sent, *(self._of_rows"),
        ),
        "tests/unit/airflow/test_airflow_ages.py",
    ),
    tested(
        bug(
            "a stray row is dated by its own list",
            "a row that came with another cell's list is dated by the list that was asked for its own cell",
            (
                "airflow.queries.results",
                "for ids in found)], default=self._began)",
                "for ids in ())], default=self._began)",
            ),
        ),
        "tests/unit/airflow/test_airflow_ages.py",
    ),
    tested(
        bug(
            "caps without turns",
            "beyond a cap the same first ones are asked about each time",
            ("airflow.queries.turns", "key=lambda key: (self._last.get(key, 0), key)", "key=lambda key: key"),
            ("airflow.queries.turns", "key=lambda dag: (self._dags.get(dag, 0), dag)", "key=lambda dag: dag"),
        ),
        "tests/unit/airflow/test_airflow_aside.py",
    ),
    tested(
        bug(
            "set aside for ever",
            "what was set aside is never asked about again",
            ("airflow.queries.list_query", "        while waiting and asked < MOST_AGAIN:\n", "        while False:\n"),
        ),
        "tests/unit/airflow/test_airflow_aside.py",
    ),
    tested(
        bug(
            "a bad row stops the rest",
            "a list that fails is not halved",
            (
                "airflow.queries.list_query",
                "        if len(batch) > 1 and self._halved <= MOST_HALVED:\n            return halves(batch)\n",
                "",
            ),
            (
                "airflow.queries.list_query",
                "        self._suspects |= dict.fromkeys(batch, str(failed))\n",
                "        self._result.fail(batch, str(failed))\n",
            ),
        ),
        "tests/unit/airflow/test_airflow_aside.py",
    ),
    tested(
        bug(
            "403 believed without proof",
            "a source that may not be read is none, be it that the login has ended",
            (
                "airflow.queries.identity",
                "return all(alive and alive.login == one.login and alive.sent >= one.received "
                "for one in each.refusals)",
                "return True",
            ),
        ),
        "tests/unit/airflow/test_airflow_identity.py",
    ),
    tested(
        bug(
            "names are remembered",
            "the confirmation believes what it remembers of a name, be it of a try that goes on or another Pod's",
            (
                "airflow.queries.identity",
                "(kept.stays_true(pod, task) if fresh else kept.fits(task))",
                "kept.fits(task)",
            ),
        ),
        "tests/unit/airflow/test_airflow_questions.py",
    ),
    tested(
        bug(
            "any end is the same end",
            "a name that is remembered of an ended try is believed of another end under the same id",
            (
                "airflow.queries.identity",
                "        return same and self.ended and",
                "        return self.fits(task) and self.ended and",
            ),
        ),
        "tests/unit/airflow/test_airflow_questions.py",
    ),
    tested(
        bug(
            "the same list again",
            "a list that confirms is one that a cache on the way may have an answer to",
            (
                "airflow.service",
                '[*{task_key.task_id for task_key in batch}, f"{NOBODY}-{uuid4()}"]',
                "[*{task_key.task_id for task_key in batch}]",
            ),
        ),
        "tests/unit/airflow/test_airflow_questions.py",
    ),
    *(
        tested(
            one, "tests/unit/decision/test_namesakes.py" if "refut" in one.name else "tests/simulation/test_scenes.py"
        )
        for one in neighbours.BUGS
        if one.name not in _ELSEWHERE
    ),
    tested(
        bug(
            "a label that no run has is a run",
            "a run that can't be resolved is asked for by its label, and counts as gone",
            ("airflow.queries.absence", "for pod in missing if pod.run_known for", "for pod in missing for"),
            ("airflow.queries.absence", "if not _yes(dag) or not pod.run_known:", "if not _yes(dag):"),
        ),
        "tests/unit/airflow/test_airflow_questions.py",
    ),
    tested(
        bug(
            "contested is nothing",
            "an earlier try's Pod that works is deleted although Airflow names another one",
            (
                "ownership_guard",
                "return pod.namespace in self._refuted or finding.contested",
                "return pod.namespace in self._refuted",
            ),
        ),
        "tests/unit/decision/test_namesakes.py",
    ),
)


TESTED += tuple(ByTests(one, (test,)) for one, test in second.BUGS)


def caught(one: ByTests, *, timeout: float = 300) -> bool:
    """Plant the bug in a process of its own and run its tests; return whether one fails."""
    command = [sys.executable, "-m", "tests.simulation.planted.tested", one.bug.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode == 1 and "failed" in done.stdout


def _run(one: ByTests) -> int:
    plant(one.bug)
    import pytest

    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "", *one.tests])


def main(names: Sequence[str]) -> int:
    """Run the tests of one bug with it planted, or try all."""
    if names:
        return _run(next(one for one in TESTED if one.bug.name == names[0]))
    escaped = 0
    for one in TESTED:
        good = caught(one)
        escaped += not good
        print(f"{one.bug.name}: {'caught by' if good else 'NOT CAUGHT by'} {', '.join(one.tests)}", flush=True)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
