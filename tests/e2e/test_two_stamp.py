"""Real tasks of an Airflow 2.11 in which kpo-healer-airflow is installed: their Pods carry its stamp too.

Part of `make airflow2`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_stamp import assert_stamped, installed
from tests.lab.airflow2 import Airflow2
from tests.lab.airflow_env import full_version
from tests.lab.kube import Cluster

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("own_hook", [False, True], ids=["alone", "beside-their-own-hook"])
def test_real_pods_carry_the_name_and_the_raw_ids(
    cluster: Cluster, namespace: str, tmp_path: Path, own_hook: bool
) -> None:
    version, env = full_version("2.11"), installed(tmp_path, own_hook)
    with Airflow2.start(version=version, cluster=cluster, namespace=namespace, env=env) as airflow:
        assert_stamped(airflow, cluster, namespace, team="data" if own_hook else None)
