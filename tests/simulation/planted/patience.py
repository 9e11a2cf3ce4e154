"""Bugs in the quarantine and the guard: what is acted on too early, too often, or never."""

from __future__ import annotations

from tests.simulation.planted.bugs import bug

BUGS = (
    bug(
        "no grace",
        "what has ended is deleted without patience",
        (
            "decision.quarantine",
            "if finding.reason in ABSENT else policy.grace)",
            "if finding.reason in ABSENT else 0)",
        ),
    ),
    bug(
        "clear forgiven",
        "patience goes on although the task instance was cleared or tried again in between",
        (
            "decision.quarantine",
            "return finding.reason, task.id, task.try_number, task.state, task.end_date",
            "return finding.reason, None, None, None, None",
        ),
    ),
    bug(
        "sightings counted per change",
        "a change of the Pod counts as a sighting, though Airflow was not asked",
        (
            "decision.quarantine",
            "replace(known, pod=pod, finding=finding, due=due, next_look=look)",
            "replace(known, pod=pod, finding=finding, due=due, next_look=look, sightings=known.sightings + 1)",
        ),
    ),
    bug(
        "not knowing is a sighting",
        "an answer that knows nothing counts as a sighting",
        (
            "decision.quarantine",
            "replace(known, next_look=_STALE)",
            "replace(known, sightings=known.sightings + 1, next_look=math.inf)",
        ),
    ),
    bug(
        "one sighting is enough",
        "the number of sightings that the policy wants is not looked at",
        ("decision.quarantine", "seen = suspect.sightings >= policy.sightings and", "seen ="),
        ("decision.quarantine", "    if sightings >= wanted:\n", "    if sightings:\n"),
    ),
    bug(
        "minimum age ignored",
        "a Pod may be deleted as soon as its patience is over, however young it is",
        ("decision.quarantine", "return max(now.to_ours(pod.created + policy.min_age), ", "return max(now.ours * 0, "),
    ),
    bug(
        "unknown clock is midnight",
        "as long as the API server's clock is not known, every age counts as enough",
        (
            "decision.quarantine",
            "return math.inf if self.server is None else",
            "return -math.inf if self.server is None else",
        ),
    ),
    bug(
        "retention from creation",
        "retention counts from the Pod's creation and not from the end of its work",
        ("decision.quarantine", "now.to_ours(ended + retention)", "now.to_ours(pod.created + retention)"),
    ),
    bug(
        "retention of the other outcome",
        "what failed is kept as long as what succeeded",
        (
            "decision.quarantine",
            "policy.retention.succeeded if succeeded else",
            "policy.retention.failed if succeeded else",
        ),
        ("decision.quarantine", " else policy.retention.failed\n", " else policy.retention.succeeded\n"),
    ),
    bug(
        "annotation shortens",
        "a Pod whose annotation asks for less goes before the policy's retention is over",
        (
            "decision.quarantine",
            "max(own, retention_asked(pod.retention, policy))",
            "retention_asked(pod.retention, policy)",
        ),
    ),
    bug(
        "annotation ignored",
        "the annotation by which somebody lets a Pod stay longer has no effect",
        ("decision.quarantine", "return own if pod.retention is None else", "return own if True else"),
    ),
    bug(
        "unreadable is nothing",
        "an annotation that holds no duration is taken for none, though somebody wants the Pod to stay",
        ("decision.quarantine", "return longest if wish == UNREADABLE else", "return 0.0 if wish == UNREADABLE else"),
    ),
    bug(
        "absence as quick as the rest",
        "a removed task or deleted run gets the short grace",
        ("decision.quarantine", "(policy.absent_grace if finding.reason in ABSENT else policy.grace)", "policy.grace"),
    ),
    bug(
        "refuted and still due",
        "a suspect that was not confirmed keeps its patience",
        (
            "decision.records",
            "found = quarantine.observe(record.suspect, pod, finding, now, self._policy)",
            "found = record.suspect",
        ),
        (
            "decision.quarantine",
            "return finding.reason, task.id, task.try_number, task.state, task.end_date",
            "return finding.reason, None, None, task.state, None",
        ),
    ),
    bug(
        "acquittal forgotten",
        "a suspect whose reason went away stays a suspect",
        (
            "decision.quarantine",
            "    if action is Action.KEEP:\n        return None\n",
            "    if action is Action.KEEP:\n        return known\n",
        ),
        (
            "decision.quarantine",
            "return finding.reason, task.id, task.try_number, task.state, task.end_date",
            "return finding.reason, None, None, task.state, None",
        ),
    ),
    bug(
        "breaker never opens",
        "the breaker lets everything through",
        ("decision.limits", "        if overridden or not tripped:\n", "        if True:\n"),
    ),
    bug(
        "half-open is open to all",
        "after its cool-down the breaker lets everything through",
        (
            "decision.limits",
            "return self._left if now >= self._opened + self._limits.cool_down else 0",
            "return None if now >= self._opened + self._limits.cool_down else 0",
        ),
    ),
    bug(
        "half-open is never spent",
        "what the half-open breaker lets through is not counted",
        ("decision.limits", "        self._left -= 1\n", "        self._left -= 0\n"),
    ),
    bug(
        "breaker never half-opens",
        "once open, the breaker stays so until the share falls: orphans that stay the same share are never healed",
        ("decision.limits", "return self._left if now >= self._opened + self._limits.cool_down else 0", "return 0"),
    ),
    bug(
        "breaker counts after the deletion",
        "what the half-open breaker lets through is counted when a slice is done, and so the whole slice passes",
        (
            "decision.limits",
            "            if suspect.active and allowance is not None:\n                allowance -= 1\n",
            "",
        ),
    ),
    bug(
        "breaker counts the ripe",
        "the breaker counts only who may be deleted now, so that a flood passes it drop by drop",
        (
            "scanner",
            "pending_deletion = sum(1 for s in self._records.suspects() if s.active",
            (
                "due = quarantine.due(self._records.suspects(), self._now(), self.config.policy)\n"
                "        pending_deletion = sum(1 for s in due if s.active"
            ),
        ),
    ),
    bug(
        "breaker divides by all",
        "the breaker's share is of all Pods, done ones included",
        (
            "decision.records",
            "record is not None and record.active and not record.pod.terminating)",
            "record is not None)",
        ),
    ),
    bug(
        "breaker counts the gone",
        "Pods that are gone count on as active",
        (
            "decision.records",
            "        self._unclear.discard(uid)\n        self._uncounted.add(uid)\n",
            "        self._unclear.discard(uid)\n",
        ),
    ),
    bug(
        "breaker counts once",
        "a Pod counts for ever as it was first met",
        (
            "decision.records",
            "        uid = record.pod.uid\n        self._uncounted.add(uid)\n",
            "        uid = record.pod.uid\n        if uid not in self._active:\n            self._uncounted.add(uid)\n",
        ),
    ),
    bug(
        "budget never spent",
        "deletions take nothing from the budget",
        ("decision.limits", "            self._tokens -= 1\n", "            self._tokens -= 0\n"),
    ),
    bug(
        "budget per second",
        "the budget of a minute is given every second",
        (
            "decision.limits",
            "(now - self._filled) * self._per_minute / 60)",
            "(now - self._filled) * self._per_minute)",
        ),
    ),
    bug(
        "budget fills no more",
        "the budget is filled at the start only",
        ("decision.limits", "(now - self._filled) * self._per_minute / 60)", "0)"),
    ),
)
