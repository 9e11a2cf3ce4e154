# ruff: noqa: E501, ISC004 - code is quoted as it stands, line by line
"""Bugs in confirming, deleting and asking again: the pass itself."""

from __future__ import annotations

from tests.simulation.planted.bugs import WITHOUT_PROOF, bug

_CONFLICT = "                self._records.note_attempt(uid, needs_reread=True)\n                self._requeue(case.suspect, run)\n"
_ASKABLE = "        known = self._records.queryable(unreadable)\n"
_ASKED = "        answers = complete(pods, self._airflow.get_each(list(pods.values())))\n        confirmed, silent"
_SENT = "return _to_result(pod, self._transport.send(_request(pod), last_check=last_check))"

BUGS = (
    bug(
        "no preconditions",
        "the DELETE names neither uid nor resourceVersion",
        ("deletion.pod_deleter", '        "preconditions": preconditions,\n', ""),
    ),
    bug(
        "no resourceVersion",
        "the DELETE does not name the resourceVersion: a Pod that changed since it was judged goes too",
        ("deletion.pod_deleter", '{"uid": pod.uid, "resourceVersion": pod.resource_version}', '{"uid": pod.uid}'),
    ),
    bug(
        "no uid",
        "the DELETE does not name the uid: another Pod of the same name may go",
        (
            "deletion.pod_deleter",
            '{"uid": pod.uid, "resourceVersion": pod.resource_version}',
            '{"resourceVersion": pod.resource_version}',
        ),
    ),
    bug(
        "DELETE repeated",
        "a DELETE whose answer was lost is sent once more by the transport",
        (
            "deletion.pod_deleter",
            f"                {_SENT}\n            except DeleteNotSentError",
            "                try:\n"
            "                    reply = self._transport.send(_request(pod), last_check=last_check)\n"
            "                except ClusterError:\n"
            "                    reply = self._transport.send(_request(pod), last_check=last_check)\n"
            "                return _to_result(pod, reply)\n"
            "            except DeleteNotSentError",
        ),
    ),
    bug(
        "evidence from the answer",
        "the evidence is dated when the answer was there, not when the question was sent",
        ("deletion.executor", "Evidence(case.finding, case.answer.sent)", "Evidence(case.finding, now)"),
    ),
    bug(
        "evidence never stale",
        "the age of the evidence is not looked at",
        ("deletion.pod_deleter", "if not 0 <= age <= self._freshness:", "if age < 0:"),
    ),
    bug(
        "evidence checked before connecting",
        "the age of the evidence is looked at before connecting and not again before the first byte is sent",
        (
            "deletion.pod_deleter",
            "self._transport.send(_request(pod), last_check=last_check)",
            "self._transport.send(_request(pod))",
        ),
    ),
    bug(
        "not confirmed",
        "nobody is asked again before the DELETE: the last sighting is evidence enough",
        (
            "reconciler",
            _ASKED,
            "        known = {uid: self._records.get(uid) for uid in pods}\n"
            "        answers = {u: replace(r.answer, sent=self._clock()) for u, r in known.items() if r and r.answer}\n"
            "        confirmed, silent",
        ),
        (
            "reconciler",
            "from msgspec import Struct, field\n",
            "from msgspec import Struct, field\nfrom msgspec.structs import replace\n",
        ),
    ),
    bug(
        "confirmed by the list",
        "the confirmation asks the way a pass does, and may get what is remembered",
        (
            "reconciler",
            _ASKED,
            _ASKED.replace("get_each", "get_all"),
        ),
    ),
    bug(
        "confirmed by silence",
        "where the confirmation gets no clear answer, the last clear one counts",
        (
            "decision.records",
            "        finding = judge(pod, answer, self._options)\n        suspect, attempts",
            "        last = known.answer if known and not _is_clear(answer) else None\n"
            "        finding = judge(pod, last or answer, self._options)\n        suspect, attempts",
        ),
        WITHOUT_PROOF,
    ),
    bug(
        "confirmed by the reason alone",
        "a fresh finding of the same reason confirms, though it is of another try",
        (
            "decision.records",
            "if signature(finding) != suspect.signature:",
            "if finding.reason is not suspect.finding.reason:",
        ),
    ),
    bug(
        "fresh finding ignored",
        "whatever the fresh finding is, the suspect is deleted, if only Airflow answers",
        (
            "decision.records",
            "if signature(finding) != suspect.signature:",
            "if type(answer).__name__ not in {'Known', 'RunDeleted'}:",
        ),
    ),
    bug(
        "report mode deletes",
        "report mode is not looked at before the DELETE",
        (
            "deletion.executor",
            "        if self._airflow.mode is not Mode.ENFORCE:\n            self._limits.consume",
            "        if False:\n            self._limits.consume",
        ),
    ),
    bug(
        "policy ignored",
        "what the policy wants reported is deleted too",
        (
            "deletion.executor",
            "wanted = [each for each in self._records.suspects() if each.action is Action.DELETE and self._chosen(each)]",
            "wanted = self._records.suspects()",
        ),
    ),
    bug(
        "conflict repeated",
        "after a conflict the Pod is read anew and the DELETE sent again, without judging it again",
        (
            "deletion.executor",
            f"            case DeleteStatus.CONFLICT:\n{_CONFLICT}",
            "            case DeleteStatus.CONFLICT:\n"
            "                with suppress(ClusterError):\n"
            "                    now = self._reread(case.suspect) or case.pod\n"
            "                    self._deleter.delete_pod(now, Evidence(case.finding, self._clock()), self._is_leader)\n",
        ),
        (
            "deletion.executor",
            "from dataclasses import dataclass, field\n",
            "from contextlib import suppress\nfrom dataclasses import dataclass, field\n",
        ),
    ),
    bug(
        "error is an end",
        "a DELETE that failed counts as done",
        (
            "deletion.executor",
            "                self._records.note_attempt(uid, needs_reread=True, failure=result.message)\n"
            "                self._records.requeue(uid)\n                self._back_off",
            "                _mark_gone(case.suspect, case.pod, run)\n                self._back_off",
        ),
    ),
    bug(
        "denied for ever",
        "a deletion that was denied once is never tried again",
        ("decision.records", "replace(record.attempts, denied=False)", "record.attempts"),
    ),
    bug(
        "paused for ever",
        "once the API server asked for a pause nothing is tried any more",
        ("deletion.executor", "self._paused_until = self._clock() + pause", "self._paused_until = math.inf"),
    ),
    bug(
        "stamps ignored",
        "a Pod stamped for another Airflow is judged as one's own",
        ("decision.records", "return pod.owner_label in {None, airflow.name}", "return True"),
    ),
    bug(
        "siblings from memory",
        "the Pod that Airflow names is not read but taken from the picture, where it may live on",
        (
            "scanner",
            "            return self._cluster.get_pod(namespace, name)\n",
            "            found = (r.pod for r in self._records if (r.pod.namespace, r.pod.name) == (namespace, name))\n"
            "            return next(found, None)\n",
        ),
    ),
    bug(
        "no more audits",
        "the first audit is the only one",
        ("schedule", "self._next_audit = now + self._audit_interval", 'self._next_audit = float("inf")'),
    ),
    bug(
        "audits ask the unanswered",
        "an audit asks only about those that had no clear answer yet",
        (
            "scanner",
            _ASKABLE,
            f"{_ASKABLE}        if kind is PassKind.AUDIT:\n            wanted = {{pod.uid for pod in self._records.pending()}}\n"
            "            known = {uid: record for uid, record in known.items() if uid in wanted}\n",
        ),
    ),
    bug(
        "suspects never asked again",
        "who is a suspect is not looked at any more",
        (
            "scanner",
            _ASKABLE,
            f"{_ASKABLE}        known = {{u: r for u, r in known.items() if r.suspect is None}}\n",
        ),
    ),
    bug(
        "failure is use",
        "a question that failed once counts as an answer that the Pod is in use, for ever",
        (
            "scanner",
            _ASKABLE,
            f"{_ASKABLE}        known = {{u: r for u, r in known.items() if r.last_unclear is None}}\n",
        ),
    ),
)
