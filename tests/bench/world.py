"""The bench's world: an API server full of Pods, and an Airflow on PostgreSQL that knows them.

No kubelet runs while something is measured: a deleted Pod stays Terminating, as it does for its grace period where
there is one, and nothing but the contestant and the servers uses the processor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import population, tools
from tests.bench.population import NAMESPACE, Seat, pod_name
from tests.bench.postgres import Postgres
from tests.bench.stamping import Stamp
from tests.lab.airflow import Airflow
from tests.lab.airflow_env import prepare
from tests.lab.healer import Installation
from tests.lab.kube import Cluster
from tests.lab.processes import new_folder, remove_folder, run_shown, say


@dataclass
class World:
    """Everything a contestant may ask. folder: for files of the bench."""

    folder: Path
    cluster: Cluster
    stamp: Stamp
    postgres: Postgres | None = None
    airflow: Airflow | None = None
    pods: int = 0

    def people(self, *groups: Sequence[Seat]) -> None:
        """Makes exactly these Pods be there, each in its first state."""
        self.cluster._erase(f"/registry/pods/{NAMESPACE}/", whole_prefix=True)
        seats = [seat for group in groups for seat in group]
        self.stamp.put(seats)
        self.pods = len(seats)
        self.stamp.wait_served(self.pods)

    def renew(self, seats: Sequence[Seat]) -> None:
        """Brings these Pods back into their first state, whatever became of them."""
        self.stamp.remove(seats)
        self.stamp.put(seats)
        self.stamp.wait_served(self.pods)

    @property
    def token(self) -> str:
        """Of an admin of the cluster."""
        return "lab-admin"

    @property
    def url(self) -> str:
        assert self.airflow is not None
        return self.airflow.url

    def install(self, name: str, **fields: Any) -> Installation:
        """kpo-healer's account and a configuration with its defaults, but for `fields` of the file's top level."""
        made = Installation.make(self.folder / name, self.cluster, url=self.url, namespaces=[NAMESPACE])
        airflow = made.config["airflows"][0]
        airflow |= {"policy": {}, "limits": {}}
        made.config = {
            "mode": "report",
            "leaderElection": made.config["leaderElection"],
            "airflows": [airflow],
            **fields,
        }
        return made

    def airflow_log(self) -> tuple[int, int]:
        """Rows in Airflow's audit table, and the bytes of what they hold."""
        assert self.postgres is not None
        ((rows, size),) = self.postgres.sql("select count(*), coalesce(sum(pg_column_size(log.*)), 0) from log")
        return int(rows), int(size)


@contextlib.contextmanager
def world(*, pods: int, airflow: bool = True, growth: bool = False) -> Iterator[World]:
    """A world for up to so many live Pods, still without any; gone with the block."""
    with contextlib.ExitStack() as stack:
        folder = new_folder("kpo-healer-bench-")
        stack.callback(remove_folder, folder)
        cluster = stack.enter_context(_cluster(folder / "cluster", growth=growth))
        made = World(folder, cluster, Stamp(cluster))
        cluster.namespace(NAMESPACE)
        _learn(made, pods, growth=growth)
        if airflow:
            made.postgres = stack.enter_context(Postgres.start())
            made.airflow = stack.enter_context(_airflow(folder / "airflow", made.postgres))
            _seed(made, pods, growth=growth)
        yield made


@contextlib.contextmanager
def _cluster(root: Path, *, growth: bool) -> Iterator[Cluster]:
    root.mkdir(parents=True)
    with Cluster.start(root) as cluster:
        if growth:  # a hundred thousand Pods, written several times, are more than etcd takes by default
            cluster.etcd.args = [*cluster.etcd.args, "--quota-backend-bytes=8589934592"]
        yield cluster


def _learn(made: World, pods: int, *, growth: bool) -> None:
    """Makes the models of all Pods that may be needed; afterwards kwok has nothing more to do."""
    say("making the models of all Pods")
    live = population.live(100_000 if growth else max(10_000, pods))
    everyone = [*live, *population.orphans(), *population.ended_orphans()]
    if growth:
        everyone += [*population.in_runs(10_000, population.SMALL_RUNS), *population.ended_while_live(10_000)]
    made.stamp.learn(everyone)
    for process in (made.cluster.kwok, made.cluster.kubelet):
        if process is not None:
            process.stop()
    if growth:
        made.cluster.apiserver.stop()
        made.cluster.etcd.restart(timeout=10)
        made.cluster.apiserver.start()


@contextlib.contextmanager
def _airflow(root: Path, postgres: Postgres) -> Iterator[Airflow]:
    """The lab's Airflow with only its API server, on PostgreSQL."""
    environment = prepare()
    variables = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.dsn,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "20",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(root / "no-plugins"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": str(tools.drivers()),
    }
    root.mkdir(parents=True)
    made = Airflow(environment, root, namespace=NAMESPACE, kubeconfig=None)
    migrate: list[str | Path] = [environment.python, "-m", "airflow", "db", "migrate"]
    run_shown("making Airflow's tables in PostgreSQL", migrate, env=made.environ | variables, cwd=root)
    with Airflow.start(root, components=("api-server",), namespace=NAMESPACE, env=variables) as airflow:
        yield airflow


def _seed(made: World, pods: int, *, growth: bool) -> None:
    assert made.airflow is not None
    assert made.postgres is not None
    specs = list(population.dags(pods, growth=growth))
    rows = sum(task.count for dag in specs for run in dag.runs for task in run.tasks)
    say(f"seeding Airflow: {len(specs)} DAGs, {sum(len(dag.runs) for dag in specs)} runs, {rows} task instances")
    for start in range(0, len(specs), 10):
        made.airflow.seed(specs[start : start + 10])
    if growth:
        _name_pods(made.postgres)
    made.postgres.sql("vacuum analyze")


def _name_pods(postgres: Postgres) -> None:
    """Notes in Airflow's state store which Pod the task instances of the growth's orphans used."""
    cells = {(seat.dag, seat.run, seat.task): pod_name(seat) for seat in population.ended_while_live(10_000)}
    values = ", ".join(f"('{d}', '{r}', '{t}', '{n.rpartition('-')[0]}')" for (d, r, t), n in cells.items())
    postgres.sql(f"""
        insert into task_state_store (dag_run_id, dag_id, task_id, run_id, map_index, key, value, updated_at)
        select dag_run.id, cell.dag, cell.task, cell.run, instance.map_index, 'pod_identifier',
            json_build_object('name', cell.pod || '-' || instance.map_index, 'namespace', '{NAMESPACE}')::text, now()
        from (values {values}) as cell (dag, run, task, pod)
        join dag_run on dag_run.dag_id = cell.dag and dag_run.run_id = cell.run
        join task_instance instance on instance.dag_id = cell.dag and instance.run_id = cell.run
            and instance.task_id = cell.task
    """)
