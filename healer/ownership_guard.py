"""Whose Pods are an Airflow's, and what refutes its claim to all Pods of a namespace.

Two Airflows that run the same DAGs have the same ids: their Pods look alike, and what one of them says of a task
instance is not true of the other's Pod. Where Airflow names a Pod itself, that sets them apart. Where it can't (an
earlier try, no source) all rests on `ownership: exclusive`, which is refuted for a namespace as soon as a Pod of
another Airflow is seen there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from healer.config import AirflowConfig, covers
from healer.decision.records import OwnershipConfig, claims_whole, has_own_label, owns
from healer.log import get_logger
from healer.model import Finding, Pod, Reason

log = get_logger(__name__)


class OwnershipGuard:
    """What speaks against one Airflow's claim to its namespaces, since the start.

    It only grows: who has seen more holds back more. It is no larger than the list of namespaces that there ever were.
    After a restart it starts empty, and nothing is deleted before it is filled again: the first pass judges every Pod
    before it acts on any, and a suspect waits for as many looks as there are chances to see what refutes the claim.
    """

    def __init__(self, config: AirflowConfig) -> None:
        """Start with every claim standing."""
        self._config = config
        self._refuted: dict[str, str] = {}

    @property
    def refuted(self) -> Mapping[str, str]:
        """The namespaces in which the claim does not hold, and why."""
        return MappingProxyType(self._refuted)

    def admits(self, pod: Pod) -> bool:
        """Return whether a Pod is this Airflow's to judge, and note one that is stamped for another."""
        if is_foreign(self._config, pod):
            self._refute(pod, f"{pod} is stamped for Airflow {pod.owner_label}")
        return owns(self._config, pod)

    def see(self, pod: Pod, finding: Finding) -> None:
        """Note a Pod that looks like a task instance's own while Airflow names another one."""
        if finding.reason is Reason.OTHER_POD:
            self._refute(pod, f"{pod} has the labels of a task instance for which Airflow names another Pod")

    def withholds(self, pod: Pod, finding: Finding) -> bool:
        """Return whether nothing proves that a Pod is this Airflow's: no stamp, no name, and no claim that holds.

        Of an earlier try's Pod that works while Airflow names another one the claim alone says too little: a next try
        would have adopted it, unless its operator never does (`reattach_on_restart=False`).
        """
        if has_own_label(self._config, pod) or finding.named:
            return False
        return pod.namespace in self._refuted or finding.contested

    def _refute(self, pod: Pod, why: str) -> None:
        if not claims_whole(self._config) or pod.namespace in self._refuted:
            return
        self._refuted[pod.namespace] = why
        log.warning(
            "ownership is refuted: Pods of another Airflow are in this namespace, so that what Airflow does not name "
            "itself is reported and not deleted; stamp its Pods and set ownership: stamped",
            airflow=self._config.name,
            namespace=pod.namespace,
            why=why,
        )


def is_foreign(claim: OwnershipConfig, pod: Pod) -> bool:
    """Return whether a Pod is stamped for another Airflow in a namespace that this one claims as a whole."""
    if not claims_whole(claim) or not covers(claim.namespaces, pod.namespace) or not pod.selected:
        return False
    return pod.owner_label not in {None, claim.name}


def foreign_stamps(claim: OwnershipConfig, pods: Iterable[Pod]) -> list[str]:
    """Return the other Airflows for which Pods are stamped in namespaces that this one claims as a whole, sorted."""
    return sorted({pod.owner_label for pod in pods if pod.owner_label is not None and is_foreign(claim, pod)})
