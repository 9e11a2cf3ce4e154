# ruff: noqa: E501 - code is quoted as it stands, line by line
"""Bugs in the leadership: two that act, one that acts too long, none that ever acts."""

from __future__ import annotations

from tests.simulation.planted.bugs import bug

BUGS = (
    bug(
        "leadership never ends",
        "who led once leads until it hears of another leader, however long it could not renew",
        ("leader_election", "        return self._clock() < self._until\n", "        return self._until > -math.inf\n"),
    ),
    bug(
        "leadership from the answer",
        "leadership counts from when the renewal was answered, not from when it was sent",
        (
            "leader_election",
            "self._until = started + self._config.renew_deadline",
            "self._until = self._clock() + self._config.renew_deadline",
        ),
    ),
    bug(
        "leadership as long as the Lease",
        "a leader acts as long as the Lease lasts, and not only until the deadline for its renewal",
        (
            "leader_election",
            "self._until = started + self._config.renew_deadline",
            "self._until = started + self._wait()",
        ),
    ),
    bug(
        "impatient successor",
        "a Lease that was not renewed for the time of two tries is taken over",
        (
            "leader_election",
            "return max(self._config.lease_duration, self._seen.duration if self._seen else 0.0)",
            "return 2 * self._config.retry_period",
        ),
    ),
    bug(
        "renewal unnoticed",
        "a Lease is taken over so long after it was first seen, whether it was renewed since or not",
        (
            "leader_election",
            "            self._seen, self._since = lease, self._clock()\n",
            "            self._seen = lease\n",
        ),
    ),
    bug(
        "patience starts over",
        "each look at the Lease counts as a change of it: a dead leader is never succeeded",
        ("leader_election", "        if lease != self._seen:\n", "        if True:\n"),
    ),
    bug(
        "whoever writes leads",
        "the Lease is taken whether its holder lives or not",
        ("leader_election", "        if self._is_free():\n", "        if True:\n"),
    ),
    bug(
        "conflict is a renewal",
        "a renewal that somebody else was faster with counts as done: the Lease was written, after all",
        (
            "leader_election",
            "            try:\n                self._attempt()\n            except ClusterError as error:\n",
            "            try:\n                self._attempt()\n            except ClusterError as error:\n                if error.status == HTTPStatus.CONFLICT:\n                    self.term += not self.is_leader()\n                    self._until = self._clock() + self._config.renew_deadline\n                    break\n",
        ),
    ),
    bug(
        "failure is a renewal",
        "a renewal whose answer was lost counts as done: it was written, most likely",
        (
            "leader_election",
            "                self._failed(error)\n                break\n",
            "                self._until = max(self._until, self._clock() + self._config.renew_deadline)\n                self._failed(error)\n                break\n",
        ),
    ),
    bug(
        "another's Lease given away",
        "whoever stops frees the Lease, whoever holds it",
        ("leader_election", "if lease is not None and lease.holder == self.identity:", "if lease is not None:"),
        ("leader_election", "lease = self._written or self._leases.get()", "lease = self._leases.get()"),
        ("leader_election", "ATTEMPTS if self._wrote else 0", "ATTEMPTS"),
    ),
    bug(
        "Lease checked once per pass",
        "whether this replica leads is asked at the beginning of a pass and not before each DELETE",
        (
            "deletion.executor",
            "while run.queue and not run.stopped and self._is_leader():",
            "while run.queue and not run.stopped:",
        ),
        ("deletion.pod_deleter", "        if not is_leader():\n", "        if False:\n"),
    ),
    bug(
        "Lease checked once per slice",
        "whether this replica leads is asked before Airflow is asked, and not as the last act before the DELETE",
        ("deletion.pod_deleter", "        if not is_leader():\n", "        if False:\n"),
    ),
)
