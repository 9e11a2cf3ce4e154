# ruff: noqa: E501, ISC004 - code is quoted as it stands, line by line
"""Bugs in confirming, deleting and asking again: the pass itself."""

from __future__ import annotations

from tests.simulation.planted.bugs import WITHOUT_PROOF, bug

_CONFLICT = "                self._unsure.add(pod.uid)\n                self._once_more(suspect, round_)\n"
_ASKABLE = "        pods = {pod.uid: pod for pod in self._book.askable(unreadable)}\n"
_SENT = "return _outcome(pod, self._transport.send(_request(pod), last_check=last_check))"

BUGS = (
    bug(
        "no preconditions",
        "the DELETE names neither uid nor resourceVersion",
        ("cluster.deletes", '        "preconditions": preconditions,\n', ""),
    ),
    bug(
        "no resourceVersion",
        "the DELETE does not name the resourceVersion: a Pod that changed since it was judged goes too",
        ("cluster.deletes", '{"uid": pod.uid, "resourceVersion": pod.resource_version}', '{"uid": pod.uid}'),
    ),
    bug(
        "no uid",
        "the DELETE does not name the uid: another Pod of the same name may go",
        (
            "cluster.deletes",
            '{"uid": pod.uid, "resourceVersion": pod.resource_version}',
            '{"resourceVersion": pod.resource_version}',
        ),
    ),
    bug(
        "DELETE repeated",
        "a DELETE whose answer was lost is sent once more by the transport",
        (
            "cluster.deletes",
            f"            {_SENT}\n        except _NotSentError",
            "            try:\n"
            "                reply = self._transport.send(_request(pod), last_check=last_check)\n"
            "            except ClusterError:\n"
            "                reply = self._transport.send(_request(pod), last_check=last_check)\n"
            "            return _outcome(pod, reply)\n"
            "        except _NotSentError",
        ),
    ),
    bug(
        "evidence from the answer",
        "the evidence is dated when the answer was there, not when the question was sent",
        ("reconcile.healing", "Proof(finding, answer.sent)", "Proof(finding, now)"),
    ),
    bug(
        "evidence never stale",
        "the age of the evidence is not looked at",
        ("cluster.deletes", "if not 0 <= age <= self._freshness:", "if age < 0:"),
    ),
    bug(
        "evidence checked before connecting",
        "the age of the evidence is looked at before connecting and not again before the first byte is sent",
        (
            "cluster.deletes",
            "self._transport.send(_request(pod), last_check=last_check)",
            "self._transport.send(_request(pod))",
        ),
    ),
    bug(
        "not confirmed",
        "nobody is asked again before the DELETE: the last sighting is evidence enough",
        (
            "reconcile.reconciler",
            "        answers = _complete(pods, self._airflow.ask_each(pods)) if pods else {}\n        confirmed = {}",
            "        known = {pod.uid: self._book.get(pod.uid) for pod in pods}\n"
            "        answers = {u: replace(r.answer, sent=self._tools.clock()) for u, r in known.items() if r and r.answer}\n"
            "        confirmed = {}",
        ),
    ),
    bug(
        "confirmed by the list",
        "the confirmation asks the way a pass does, and may get what is remembered",
        (
            "reconcile.reconciler",
            "        answers = _complete(pods, self._airflow.ask_each(pods)) if pods else {}\n        confirmed = {}",
            "        answers = _complete(pods, self._airflow.look(pods)) if pods else {}\n        confirmed = {}",
        ),
    ),
    bug(
        "confirmed by silence",
        "where the confirmation gets no clear answer, the last clear one counts",
        (
            "reconcile.casebook",
            "        finding = judge(pod, answer, self._terms)\n        if _is_clear",
            "        last = known.answer if known and not _is_clear(answer) else None\n"
            "        finding = judge(pod, last or answer, self._terms)\n        if _is_clear",
        ),
        WITHOUT_PROOF,
    ),
    bug(
        "confirmed by the reason alone",
        "a fresh finding of the same reason confirms, though it is of another try",
        (
            "reconcile.healing",
            "if signature(finding) != suspect.signature:",
            "if finding.reason is not suspect.finding.reason:",
        ),
    ),
    bug(
        "fresh finding ignored",
        "whatever the fresh finding is, the suspect is deleted, if only Airflow answers",
        (
            "reconcile.healing",
            "if signature(finding) != suspect.signature:",
            "if type(answer).__name__ not in {'Known', 'RunDeleted'}:",
        ),
    ),
    bug(
        "report mode deletes",
        "report mode is not looked at before the DELETE",
        (
            "reconcile.healing",
            "        if self._airflow.mode is not Mode.ENFORCE:\n            self._spend",
            "        if False:\n            self._spend",
        ),
    ),
    bug(
        "policy ignored",
        "what the policy wants reported is deleted too",
        (
            "reconcile.healing",
            "(suspect for suspect in self._quarantine.ripe(now) if suspect.action is Action.DELETE)",
            "iter(self._quarantine.ripe(now))",
        ),
    ),
    bug(
        "conflict repeated",
        "after a conflict the Pod is read anew and the DELETE sent again, without judging it again",
        (
            "reconcile.healing",
            f"            case Result.CONFLICT:\n{_CONFLICT}",
            "            case Result.CONFLICT:\n"
            "                with suppress(ClusterError):\n"
            "                    now = self._reread(suspect) or pod\n"
            "                    self._cluster.delete_pod(now, Proof(suspect.finding, self._clock()), self._right)\n",
        ),
        (
            "reconcile.healing",
            "from dataclasses import dataclass, field\n",
            "from contextlib import suppress\nfrom dataclasses import dataclass, field\n",
        ),
    ),
    bug(
        "error is an end",
        "a DELETE that failed counts as done",
        (
            "reconcile.healing",
            "                self._unsure.add(pod.uid)\n                self._failed(pod, deletion)\n                self._trouble",
            "                self._let_go(suspect, pod, round_)\n                self._trouble",
        ),
    ),
    bug(
        "denied for ever",
        "a deletion that was denied once is never tried again",
        ("reconcile.healing", "        self._denied.clear()\n", ""),
    ),
    bug(
        "paused for ever",
        "once the API server asked for a pause nothing is tried any more",
        ("reconcile.healing", "self._paused_until = self._clock() + pause", "self._paused_until = math.inf"),
    ),
    bug(
        "stamps ignored",
        "a Pod stamped for another Airflow is judged as one's own",
        ("reconcile.casebook", "return pod.stamp in {None, airflow.name}", "return True"),
    ),
    bug(
        "siblings from memory",
        "the Pod that Airflow names is not read but taken from the picture, where it may live on",
        (
            "reconcile.reconciler",
            "            return self._tools.cluster.get_pod(namespace, name)\n",
            "            found = (r.pod for r in self._book if (r.pod.namespace, r.pod.name) == (namespace, name))\n"
            "            return next(found, None)\n",
        ),
    ),
    bug(
        "no more audits",
        "the first audit is the only one",
        ("clockwork", "self._next_audit = now + self._audit_interval", 'self._next_audit = float("inf")'),
    ),
    bug(
        "audits ask the unanswered",
        "an audit asks only about those that had no clear answer yet",
        (
            "reconcile.reconciler",
            _ASKABLE,
            f"{_ASKABLE}        if depth is Depth.AUDIT:\n            wanted = {{pod.uid for pod in self._book.to_look_at()}}\n"
            "            pods = {uid: pod for uid, pod in pods.items() if uid in wanted}\n",
        ),
    ),
    bug(
        "suspects never asked again",
        "who is a suspect is not looked at any more",
        (
            "reconcile.reconciler",
            _ASKABLE,
            f"{_ASKABLE}        pods = {{u: pod for u, pod in pods.items() if u not in self._quarantine}}\n",
        ),
    ),
    bug(
        "failure is use",
        "a question that failed once counts as an answer that the Pod is in use, for ever",
        (
            "reconcile.reconciler",
            _ASKABLE,
            f"{_ASKABLE}        doubted = {{r.pod.uid for r in self._book if r.doubt}}\n"
            "        pods = {u: pod for u, pod in pods.items() if u not in doubted}\n",
        ),
    ),
)
