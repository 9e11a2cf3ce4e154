"""The pass: what is there, what Airflow knows of it, what follows, and what is done about it."""

from healer.reconcile.casebook import owns
from healer.reconcile.notary import THREAD as NOTES
from healer.reconcile.notary import Notary
from healer.reconcile.oneshot import Explanation, NoSuchPodError, Scan, explain, heal_once, scan
from healer.reconcile.reconciler import Depth, Reconciler, Tools
from healer.reconcile.view import View

__all__ = [
    "NOTES",
    "Depth",
    "Explanation",
    "NoSuchPodError",
    "Notary",
    "Reconciler",
    "Scan",
    "Tools",
    "View",
    "explain",
    "heal_once",
    "owns",
    "scan",
]
