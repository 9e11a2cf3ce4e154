"""Bugs in the quarantine and the guard: what is acted on too early, too often, or never."""

from __future__ import annotations

from tests.simulation.planted.bugs import bug

BUGS = (
    bug(
        "no grace",
        "what has ended is deleted without patience",
        ("suspects", "        return since + policy.grace\n", "        return since\n"),
    ),
    bug(
        "clear forgiven",
        "patience goes on although the task instance was cleared or tried again in between",
        (
            "suspects",
            "return finding.reason, task.id, task.try_number, task.state, task.end_date",
            "return finding.reason, None, None, None, None",
        ),
    ),
    bug(
        "sightings counted per change",
        "a change of the Pod counts as a sighting, though Airflow was not asked",
        (
            "suspects",
            "replace(known, pod=pod, finding=finding, due=due, next_look=look)",
            "replace(known, pod=pod, finding=finding, due=due, next_look=look, sightings=known.sightings + 1)",
        ),
    ),
    bug(
        "not knowing is a sighting",
        "an answer that knows nothing counts as a sighting",
        (
            "suspects",
            "replace(known, next_look=_BLURRED)",
            "replace(known, sightings=known.sightings + 1, next_look=math.inf)",
        ),
    ),
    bug(
        "one sighting is enough",
        "the number of sightings that the policy wants is not looked at",
        ("suspects", "seen = suspect.sightings >= self._policy.sightings and", "seen ="),
        ("suspects", "        if sightings >= wanted:\n", "        if sightings:\n"),
    ),
    bug(
        "minimum age ignored",
        "a Pod may be deleted as soon as its patience is over, however young it is",
        ("suspects", "return max(now.to_ours(pod.created + policy.min_age), ", "return max(now.ours * 0, "),
    ),
    bug(
        "unknown clock is midnight",
        "as long as the API server's clock is not known, every age counts as enough",
        ("suspects", "return math.inf if self.server is None else", "return -math.inf if self.server is None else"),
    ),
    bug(
        "retention from creation",
        "retention counts from the Pod's creation and not from the end of its work",
        ("suspects", "now.to_ours(ending.ended + retention)", "now.to_ours(pod.created + retention)"),
    ),
    bug(
        "retention of the other outcome",
        "what failed is kept as long as what succeeded",
        (
            "suspects",
            "policy.retention.succeeded if ending.succeeded else",
            "policy.retention.failed if ending.succeeded else",
        ),
        ("suspects", " else policy.retention.failed\n", " else policy.retention.succeeded\n"),
    ),
    bug(
        "absence as quick as the rest",
        "a removed task or deleted run gets the short grace",
        ("suspects", "        return since + policy.absent_grace\n", "        return since + policy.grace\n"),
    ),
    bug(
        "refuted and still due",
        "a suspect that was not confirmed keeps its patience",
        (
            "reconcile.healing",
            "        self._quarantine.observe(pod, finding, now)\n        self._quarantine.refute(pod.uid)\n",
            "        self._quarantine.refute(pod.uid)\n",
        ),
        (
            "suspects",
            "return finding.reason, task.id, task.try_number, task.state, task.end_date",
            "return finding.reason, None, None, task.state, None",
        ),
    ),
    bug(
        "acquittal forgotten",
        "a suspect whose reason went away stays a suspect",
        (
            "suspects",
            "        if action is Action.KEEP:\n            self._suspects.pop(pod.uid, None)\n            return\n",
            "        if action is Action.KEEP:\n            return\n",
        ),
        (
            "suspects",
            "return finding.reason, task.id, task.try_number, task.state, task.end_date",
            "return finding.reason, None, None, task.state, None",
        ),
    ),
    bug(
        "breaker never opens",
        "the breaker lets everything through",
        ("guard", "        if lifted or not tripped:\n", "        if True:\n"),
    ),
    bug(
        "half-open is open to all",
        "after its cool-down the breaker lets everything through",
        (
            "guard",
            "return self._left if now >= self._opened + self._limits.cool_down else 0",
            "return None if now >= self._opened + self._limits.cool_down else 0",
        ),
    ),
    bug(
        "half-open is never spent",
        "what the half-open breaker lets through is not counted",
        ("guard", "        self._left -= 1\n", "        self._left -= 0\n"),
    ),
    bug(
        "breaker never half-opens",
        "once open, the breaker stays so until the share falls: orphans that stay the same share are never healed",
        ("guard", "return self._left if now >= self._opened + self._limits.cool_down else 0", "return 0"),
    ),
    bug(
        "breaker counts after the deletion",
        "what the half-open breaker lets through is counted when a slice is done, and so the whole slice passes",
        (
            "reconcile.healing",
            "            if suspect.active and allowance is not None:\n                allowance -= 1\n",
            "",
        ),
    ),
    bug(
        "breaker counts the ripe",
        "the breaker counts only who may be deleted now, so that a flood passes it drop by drop",
        (
            "reconcile.reconciler",
            "condemned = sum(1 for s in self._quarantine if s.active",
            "condemned = sum(1 for s in self._quarantine.ripe(self._now()) if s.active",
        ),
    ),
    bug(
        "breaker divides by all",
        "the breaker's share is of all Pods, done ones included",
        (
            "reconcile.casebook",
            "record is not None and record.active and not record.pod.terminating)",
            "record is not None)",
        ),
    ),
    bug(
        "breaker counts the gone",
        "Pods that are gone count on as active",
        (
            "reconcile.casebook",
            "        self._uncounted.add(uid)\n        for uids in",
            "        for uids in",
        ),
    ),
    bug(
        "breaker counts once",
        "a Pod counts for ever as it was first met",
        (
            "reconcile.casebook",
            "        uid = record.pod.uid\n        self._uncounted.add(uid)\n",
            "        uid = record.pod.uid\n        if uid not in self._active:\n            self._uncounted.add(uid)\n",
        ),
    ),
    bug(
        "budget never spent",
        "deletions take nothing from the budget",
        ("guard", "            self._tokens -= 1\n", "            self._tokens -= 0\n"),
    ),
    bug(
        "budget per second",
        "the budget of a minute is given every second",
        ("guard", "(now - self._filled) * self._per_minute / 60)", "(now - self._filled) * self._per_minute)"),
    ),
    bug(
        "budget fills no more",
        "the budget is filled at the start only",
        ("guard", "(now - self._filled) * self._per_minute / 60)", "0)"),
    ),
)
