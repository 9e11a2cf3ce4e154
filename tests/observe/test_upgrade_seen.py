"""An upgrade from report to enforce that stops half-way is seen: the old replica leads, and Prometheus says so.

Two real replicas of one installation at the real API server, as the Deployment has them while it rolls.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.lab.healer import Installation
from tests.lab.kube import Cluster
from tests.lab.pods import kpo_pod
from tests.lab.processes import wait_for
from tests.lab.prometheus import Prometheus
from tests.observe import queries
from tests.unit import airflow_fake as af

PATIENCE: Final = queries.FIRING_PATIENCE

FIRES: Final = "KpoHealerReplicasDiffer"

pytestmark = pytest.mark.timeout(1800)


def test_an_upgrade_to_enforce_that_stops_half_way_is_told_until_it_ends(cluster: Cluster, tmp_path: Path) -> None:
    """A second replica of the old kind is none; from the old one's end on the new mode is in force, and all is well."""
    space = cluster.namespace("upgrade-seen")
    with ExitStack() as stack:
        stack.callback(cluster.delete_namespace, space)
        fake = stack.enter_context(af.serving())
        made = Installation.make(tmp_path, cluster, url=fake.url, namespaces=[space])
        (tmp_path / "password").write_text(fake.password)
        cluster.create_pod(kpo_pod(dag_id="d", task_id="t", run_id=af.RUN, namespace=space))
        fake.rows = [af.row(rendered_fields={"namespace": space, "base_container_name": "base"})]
        old, beside, enforcing = (made.run(mode=mode) for mode in ("report", "report", "enforce"))
        targets = {healer.url: {"namespace": space} for healer in (old, beside, enforcing)}
        rules = queries.impatient(tmp_path / "alerts.yaml")
        prometheus = stack.enter_context(Prometheus.start_with(tmp_path / "prometheus", targets, rules=rules))

        with old:
            wait_for(lambda: old.metric("leader") == 1, timeout=PATIENCE, what="a leader")
            with beside:
                asked = "count(kpo_healer_config_hash)"
                wait_for(lambda: prometheus.query(asked) == [2], timeout=PATIENCE, what="two equals")
                wait_for(lambda: not prometheus.alerts(), timeout=PATIENCE, what="no alert about equals")
            stack.enter_context(enforcing)
            fired = "the alert while both are there"
            wait_for(lambda: FIRES in dict(prometheus.firing()), timeout=PATIENCE, what=fired)
            assert (old.metric("leader"), enforcing.metric("leader")) == (1, 0)
            assert prometheus.query('kpo_healer_mode{mode="report"}') == [1]
        in_force = 'kpo_healer_mode{mode="enforce"}'
        wait_for(lambda: prometheus.query(in_force) == [1], timeout=PATIENCE, what="the new mode in force")
        wait_for(lambda: not prometheus.alerts(), timeout=PATIENCE, what="no alert at its end")
