"""What `check` looks at, a line each, and how to mend what is not good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, to_builtins

from healer.airflow import Airflow, Mark, Probe
from healer.cli.output import write, write_data, write_table
from healer.cluster import Cluster, ClusterError
from healer.config import AirflowConfig, Config, Mode, warnings

NEEDED = ("get", "list", "watch")
"""What the healer does with Pods in any mode."""


class Line(Struct, frozen=True):
    """One thing that was looked at. `fix` says how to mend it, empty where nothing need be mended."""

    status: Mark
    what: str
    detail: str
    fix: str = ""


def check(config: Config, cluster: Cluster, env: Mapping[str, str]) -> Iterator[Line]:
    """Look at everything. Never raises for what a server does."""
    yield Line(Mark.OK, "config", f"Airflows: {len(config.airflows)}, namespaces: {len(_modes(config))}")
    for text in warnings(config, env):
        yield Line(Mark.WARN, "config", text)
    yield Line(Mark.OK, "replicas", "several replicas are not supported yet: run exactly one")
    yield from _cluster(config, cluster)
    for airflow in config.airflows:
        yield from _airflow(airflow)


def all_good(lines: Iterable[Line]) -> bool:
    """Whether nothing failed."""
    return all(line.status is not Mark.FAIL for line in lines)


def show(lines: Sequence[Line], form: str) -> None:
    """Print the lines, and below them how to mend what is not good."""
    if form != "table":
        write_data([to_builtins(line) for line in lines], form)
        return
    write_table(("status", "what", "detail"), [(line.status.value, line.what, line.detail) for line in lines])
    for fix in dict.fromkeys(line.fix for line in lines if line.fix):
        write(f"\n{fix}")


def _modes(config: Config) -> dict[str, Mode]:
    """Each namespace, and whether Pods are deleted there."""
    modes: dict[str, Mode] = {}
    for airflow in config.airflows:
        for namespace in airflow.namespaces:
            modes[namespace] = Mode.ENFORCE if Mode.ENFORCE in (airflow.mode, modes.get(namespace)) else Mode.REPORT
    return modes


def _cluster(config: Config, cluster: Cluster) -> Iterator[Line]:
    what = "cluster"
    try:
        version, account = cluster.version(), cluster.whoami()
    except ClusterError as error:
        yield Line(Mark.FAIL, what, str(error))
        return
    yield Line(
        Mark.OK, what, f"Kubernetes {version} at {cluster.server}, as {account or 'an account it does not tell'}"
    )
    for namespace, mode in _modes(config).items():
        yield from _namespace(cluster, namespace, mode, account)


def _namespace(cluster: Cluster, namespace: str, mode: Mode, account: str | None) -> Iterator[Line]:
    what = f"namespace {namespace}"
    fix = manifest(namespace, mode, account)
    try:
        lines = [_right(cluster, namespace, verb, resource, mode, fix) for verb, resource in _RIGHTS]
    except ClusterError as error:
        yield Line(Mark.FAIL, what, f"the rights can't be told: {error}")
        return
    yield from lines
    if lines[1].status is Mark.OK:
        yield _count(cluster, namespace)


_RIGHTS = (*((verb, "pods") for verb in NEEDED), ("delete", "pods"), ("create", "events"), ("patch", "events"))


def _right(cluster: Cluster, namespace: str, verb: str, resource: str, mode: Mode, fix: str) -> Line:
    what = f"namespace {namespace}"
    if cluster.can_i(verb, resource, namespace):
        return Line(Mark.OK, what, f"may {verb} {resource}")
    if resource == "events":
        return Line(Mark.WARN, what, f"may not {verb} events: users of kubectl will not see what was done", fix)
    if verb == "delete" and mode is Mode.REPORT:
        return Line(Mark.OK, what, "may not delete pods, and need not in report mode")
    return Line(Mark.FAIL, what, f"may not {verb} pods: grant it as shown below", fix)


def _count(cluster: Cluster, namespace: str) -> Line:
    what = f"namespace {namespace}"
    try:
        found = len(cluster.list_pods(namespace).pods)
    except ClusterError as error:
        return Line(Mark.FAIL, what, str(error))
    return Line(Mark.OK, what, f"KubernetesPodOperator Pods there now: {found}")


def manifest(namespace: str, mode: Mode, account: str | None) -> str:
    """Return the Role and RoleBinding that give an account what the healer needs in a namespace."""
    verbs = [*NEEDED, "delete"] if mode is Mode.ENFORCE else list(NEEDED)
    return f"""\
What the healer needs in namespace {namespace}; apply it with kubectl apply -f -
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: kpo-healer-pods, namespace: {namespace}}}
rules:
  - {{apiGroups: [""], resources: [pods], verbs: [{", ".join(verbs)}]}}
  - {{apiGroups: [""], resources: [events], verbs: [create, patch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: kpo-healer-pods, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: kpo-healer-pods}}
subjects:
  - {_subject(account)}"""


def _subject(account: str | None) -> str:
    if account and account.startswith("system:serviceaccount:") and account.count(":") == 3:
        _, _, namespace, name = account.split(":")
        return f"{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}"
    user = f'"{account}"' if account else "THE HEALER'S USER"
    return f"{{kind: User, apiGroup: rbac.authorization.k8s.io, name: {user}}}"


def _airflow(config: AirflowConfig) -> Iterator[Line]:
    for found in probe(config).checks:
        yield Line(found.mark, f"airflow {config.name}", f"{found.name}: {found.text}")


def probe(config: AirflowConfig) -> Probe:
    """Ask one Airflow what works."""
    return Airflow(config).probe()
