"""The Kubernetes API server: Pods, Events and rights, over REST."""

from healer.cluster.client import FRESHNESS, Cluster, Listing, connect
from healer.cluster.config_maps import ConfigMap, ConfigMapClient
from healer.cluster.connection import Connection
from healer.cluster.diagnostics import ContainerDiagnostics, DiagnosticsReader, PodDiagnostics
from healer.cluster.events import EventResult
from healer.cluster.leases import Lease, LeaseClient
from healer.cluster.pods import Undecodable, decode_pod, what_is_told
from healer.cluster.resource_requests import quantity
from healer.cluster.responses import grant_hint

__all__ = [
    "FRESHNESS",
    "Cluster",
    "ConfigMap",
    "ConfigMapClient",
    "Connection",
    "ContainerDiagnostics",
    "DiagnosticsReader",
    "EventResult",
    "Lease",
    "LeaseClient",
    "Listing",
    "PodDiagnostics",
    "Undecodable",
    "connect",
    "decode_pod",
    "grant_hint",
    "quantity",
    "what_is_told",
]
