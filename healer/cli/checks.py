"""What `check` looks at, a line each, and how to mend what is not good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, to_builtins

from healer.airflow import Airflow, Mark, Probe
from healer.cli.output import write, write_data, write_table
from healer.cluster import Cluster, ClusterError
from healer.config import AirflowConfig, Config, Mode, warnings
from healer.leader import LEASE, lease_client, lease_namespace

NEEDED = ("get", "list", "watch")
"""What the healer does with Pods in any mode."""

LOG = "pods/log"

LEASE_GROUP = "coordination.k8s.io"


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


def _logs(config: Config) -> set[str]:
    """The namespaces where the last log lines of a Pod are kept: of one that is deleted."""
    deleting = (a for a in config.airflows if a.mode is Mode.ENFORCE)
    wanting = (a for a in deleting if a.post_mortem.enabled and a.post_mortem.log_lines)
    return {namespace for airflow in wanting for namespace in airflow.namespaces}


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
    if config.leader_election.enabled:
        yield from _lease(config, cluster, account)
    with_logs = _logs(config)
    for namespace, mode in _modes(config).items():
        yield from _namespace(cluster, namespace, mode, account, logs=namespace in with_logs)


def _lease(config: Config, cluster: Cluster, account: str | None) -> Iterator[Line]:
    """Without these rights no replica ever leads, and nothing is done at all."""
    what = "lease"
    try:
        where = lease_namespace(cluster, config.leader_election)
        lacking = [verb for verb, name in _LEASE_RIGHTS if not _may_lease(cluster, verb, where, name)]
        if not lacking:
            found = lease_client(cluster, config.leader_election).get()
            holder = f"held by {found.holder}" if found and found.holder else "held by nobody"
            yield Line(Mark.OK, what, f"{LEASE} in namespace {where}: may be held; now {holder}")
    except ClusterError as error:
        yield Line(Mark.FAIL, what, f"the Lease {LEASE} can't be read: {error}")
        return
    for verb in lacking:
        text = f"may not {verb} leases in namespace {where}, without which it does nothing: grant it as shown below"
        yield Line(Mark.FAIL, what, text, lease_manifest(where, account))


_LEASE_RIGHTS = (("get", LEASE), ("create", ""), ("update", LEASE))


def _may_lease(cluster: Cluster, verb: str, namespace: str, name: str) -> bool:
    return cluster.can_i(verb, "leases", namespace, group=LEASE_GROUP, name=name)


def _namespace(cluster: Cluster, namespace: str, mode: Mode, account: str | None, *, logs: bool) -> Iterator[Line]:
    what = f"namespace {namespace}"
    fix = manifest(namespace, mode, account, logs=logs)
    rights = (*_RIGHTS, ("get", LOG)) if logs else _RIGHTS
    try:
        lines = [_right(cluster, namespace, verb, resource, mode, fix) for verb, resource in rights]
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
    if resource == LOG:
        return Line(Mark.WARN, what, f"may not {verb} {LOG}: a post-mortem will have no log lines", fix)
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


def manifest(namespace: str, mode: Mode, account: str | None, *, logs: bool = False) -> str:
    """Return the Role and RoleBinding that give an account what the healer needs in a namespace."""
    verbs = [*NEEDED, "delete"] if mode is Mode.ENFORCE else list(NEEDED)
    rules = [
        f'{{apiGroups: [""], resources: [pods], verbs: [{", ".join(verbs)}]}}',
        '{apiGroups: [""], resources: [events], verbs: [create, patch]}',
    ]
    rules += ['{apiGroups: [""], resources: [pods/log], verbs: [get]}'] if logs else []
    return _manifest("kpo-healer-pods", namespace, rules, account)


def lease_manifest(namespace: str, account: str | None) -> str:
    """Return the Role and RoleBinding that let an account hold the Lease."""
    rules = (
        f"{{apiGroups: [{LEASE_GROUP}], resources: [leases], resourceNames: [{LEASE}], verbs: [get, update]}}",
        f"{{apiGroups: [{LEASE_GROUP}], resources: [leases], verbs: [create]}}",
    )
    return _manifest("kpo-healer-lease", namespace, rules, account)


def _manifest(name: str, namespace: str, rules: Sequence[str], account: str | None) -> str:
    listed = "\n".join(f"  - {rule}" for rule in rules)
    return f"""\
What the healer needs in namespace {namespace}; apply it with kubectl apply -f -
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {name}, namespace: {namespace}}}
rules:
{listed}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {name}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}
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
