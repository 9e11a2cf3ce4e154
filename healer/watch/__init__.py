"""The picture of the Pods, kept fresh between full listings by kopf's watch.

A full LIST is the truth; hints fill the time until the next one. The watch begins where our LIST ended: kopf lists
nothing, as it would decode all Pods once more, and at ten times the cost. The rooms: store (the picture), supervisor
(the thread that starts kopf, again and again), operator (kopf itself), resume (where its watch begins), patience.
"""

from healer.watch.store import PodStore
from healer.watch.supervisor import Watch

__all__ = ["PodStore", "Watch"]
