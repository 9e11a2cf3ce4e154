"""Bugs about what should stop nobody but itself, and about Pods that are another Airflow's or no KPO's at all."""

from __future__ import annotations

from tests.simulation.planted.bugs import bug

_NAMESAKE = "return self.ended and self.label_try == self.task_try and _names_another(self)"
_ASKED = "return task.state in ENDED and key.try_number == task.try_number and not through"

BUGS = (
    bug(
        "done copies are finished",
        "a done Pod is not compared with the one that Airflow names: a namesake's, unread, is finished",
        ("decision.rules", _NAMESAKE, f"{_NAMESAKE} and not self.done"),
        ("decision.rules", _ASKED, _ASKED.replace("not through", "not is_done(pod, base_name(task))")),
    ),
    bug(
        "given-up copies are abandoned",
        "a marked and active Pod is not compared with the one that Airflow names",
        (
            "decision.rules",
            "case.pod.checked and not case.done and not case.namesake",
            "case.pod.checked and not case.done",
        ),
    ),
    bug(
        "refuted ownership ignored",
        "another Airflow's Pods were seen, and what nothing proves to be ours is deleted all the same",
        (
            "ownership_guard",
            "return pod.namespace in self._refuted or finding.contested",
            "return False",
        ),
    ),
    bug(
        "refutation forgotten at audit",
        "what was seen of another Airflow is forgotten with each audit",
        (
            "scanner",
            "            self._records.start_audit()\n",
            "            self._records.start_audit()\n            self._ownership._refuted.clear()\n",
        ),
    ),
    bug(
        "refutation withholds what is proven",
        "where another Airflow's Pods were seen nothing is deleted, whatever Airflow names",
        (
            "ownership_guard",
            "has_own_label(self._config, pod) or finding.named:",
            "has_own_label(self._config, pod):",
        ),
    ),
    bug(
        "selector is no rule",
        "a Pod that the selector leaves out is judged and deleted where a list has it",
        (
            "decision.rules",
            "(Reason.NOT_SELECTED, lambda case: not case.pod.selected, _selection)",
            "(Reason.NOT_SELECTED, lambda case: False, _selection)",
        ),
        ("decision.records", "if not pod.selected or not covers", "if not covers"),
        ("deletion.pod_deleter", "        if not pod.selected:\n", "        if False:\n"),
    ),
    bug(
        "purged though active",
        "a Pod that still works is purged with its run",
        (
            "decision.rules",
            "isinstance(case.answer, RunDeleted | DagDeleted) and case.done,",
            "isinstance(case.answer, RunDeleted | DagDeleted),",
        ),
    ),
    bug(
        "purged at once",
        "what is purged has no retention of its own",
        ("decision.quarantine", "        return policy.retention.purged\n", "        return 0.0\n"),
    ),
    bug(
        "elsewhere is no matter",
        "a Pod outside its task's namespace counts as moved by a hook, whether Airflow names it or not",
        (
            "decision.rules",
            "return _is_rendered_elsewhere(case.pod, case.known.task) and not _names_with_namespace(case)",
            "return False",
        ),
    ),
    bug(
        "a bad row stops the rest",
        "a list that fails is not halved: all that are in it are not known, as long as one of them is bad",
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
    bug(
        "set aside for ever",
        "what was set aside is never asked about again",
        ("airflow.queries.list_query", "        while waiting and asked < MOST_AGAIN:\n", "        while False:\n"),
    ),
    bug(
        "403 believed without proof",
        "a source that may not be read is none, be it that the login has ended",
        (
            "airflow.queries.identity",
            "return all(alive and alive.login == one.login and alive.sent >= one.received for one in each.refusals)",
            "return True",
        ),
    ),
)
