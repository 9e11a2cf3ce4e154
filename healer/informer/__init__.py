"""The Pods: listed, and kept up to date between full LISTs by kopf's watch.

A full LIST is the truth; events fill the time until the next one. The watch begins where our LIST ended: kopf lists
nothing, as it would decode all Pods once more, and at ten times the cost. `store`: the Pods, and those that are
expected to go; `resync`: when to list; `informer`: the thread that starts kopf, again and again; `kopf_watcher`: kopf
itself; `resume`: where its watch begins; `backoff`: how long it waits after an error.
"""

from healer.informer.informer import Informer
from healer.informer.store import PodStore

__all__ = ["Informer", "PodStore"]
