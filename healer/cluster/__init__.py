"""The Kubernetes API server: Pods, Events and rights, over REST."""

from healer.cluster.client import Cluster, Listing, connect, grant
from healer.cluster.connection import Connection
from healer.cluster.deletes import Outcome, Proof, Result, Right, sole_replica
from healer.cluster.errors import Busy, ClusterError, ConnectError, Gone, Malformed, Refused, Unreachable
from healer.cluster.events import Posted
from healer.cluster.pods import decode_pod, quantity

__all__ = [
    "Busy",
    "Cluster",
    "ClusterError",
    "ConnectError",
    "Connection",
    "Gone",
    "Listing",
    "Malformed",
    "Outcome",
    "Posted",
    "Proof",
    "Refused",
    "Result",
    "Right",
    "Unreachable",
    "connect",
    "decode_pod",
    "grant",
    "quantity",
    "sole_replica",
]
