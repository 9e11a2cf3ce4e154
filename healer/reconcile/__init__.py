"""The pass: what is there, what Airflow knows of it, what follows, and what is done about it."""

from healer.reconcile.casebook import owns
from healer.reconcile.oneshot import Explanation, NoSuchPodError, Scan, explain, heal_once, scan
from healer.reconcile.reconciler import Depth, Reconciler, Tools
from healer.reconcile.view import View

__all__ = [
    "Depth",
    "Explanation",
    "NoSuchPodError",
    "Reconciler",
    "Scan",
    "Tools",
    "View",
    "explain",
    "heal_once",
    "owns",
    "scan",
]
