"""The Kubernetes API server: Pods, Events and rights, over REST."""

from healer.cluster.answers import grant
from healer.cluster.client import FRESHNESS, Cluster, Listing, connect
from healer.cluster.connection import Connection
from healer.cluster.deletes import Outcome, Proof, Result, Right, sole_replica
from healer.cluster.errors import Busy, ClusterError, ConnectError, Gone, Malformed, Refused, Unreachable
from healer.cluster.events import Posted
from healer.cluster.leases import Lease, LeaseClient
from healer.cluster.pods import decode_pod
from healer.cluster.postmortem import Examiner, Remains, State
from healer.cluster.requests import quantity

__all__ = [
    "FRESHNESS",
    "Busy",
    "Cluster",
    "ClusterError",
    "ConnectError",
    "Connection",
    "Examiner",
    "Gone",
    "Lease",
    "LeaseClient",
    "Listing",
    "Malformed",
    "Outcome",
    "Posted",
    "Proof",
    "Refused",
    "Remains",
    "Result",
    "Right",
    "State",
    "Unreachable",
    "connect",
    "decode_pod",
    "grant",
    "quantity",
    "sole_replica",
]
