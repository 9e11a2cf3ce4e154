"""What `check` looks at, a line each, and how to mend what is not good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus

from msgspec import Struct, to_builtins

from healer.airflow import Airflow, Probe, Status
from healer.cli.findings import undecodable
from healer.cli.output import write, write_data, write_prose, write_table
from healer.cluster import Cluster, Lease
from healer.config import AirflowConfig, Config, HistoryMode, Mode, exact_names, matches, only_patterns, warnings
from healer.errors import ClusterError
from healer.informer.namespaces import NO_MATCH
from healer.insights.history_store import history_name
from healer.leader_election import elects, lease_client, lease_namespace, only_looks, served, unserved
from healer.ownership_guard import foreign_stamps

NEEDED = ("get", "list", "watch")
"""What the healer does with Pods in any mode."""

LOG = "pods/log"

LEASE_GROUP = "coordination.k8s.io"


class CheckLine(Struct, frozen=True):
    """One thing that was looked at. `fix` says how to mend it, empty where nothing need be mended."""

    status: Status
    what: str
    detail: str
    fix: str = ""


def check(config: Config, cluster: Cluster, env: Mapping[str, str]) -> Iterator[CheckLine]:
    """Look at everything. Never raises for what a server does."""
    named, patterns = len(config.namespaces) - len(config.patterns), len(config.patterns)
    also = f", patterns: {patterns}" if patterns else ""
    yield CheckLine(Status.OK, "config", f"Airflows: {len(config.airflows)}, namespaces: {named}{also}")
    for text in warnings(config, env):
        yield CheckLine(Status.WARN, "config", text)
    yield from _cluster(config, cluster)
    for airflow in config.airflows:
        yield from _airflow(airflow)


def all_good(lines: Iterable[CheckLine]) -> bool:
    """Whether nothing failed."""
    return all(line.status is not Status.FAIL for line in lines)


def show(lines: Sequence[CheckLine], form: str) -> None:
    """Print the lines, and below them how to mend what is not good."""
    if form != "table":
        write_data([to_builtins(line) for line in lines], form)
        return
    write_table(("status", "what", "detail"), [(line.status.value, line.what, line.detail) for line in lines])
    for fix in dict.fromkeys(line.fix for line in lines if line.fix):
        write(f"\n{fix}" if "---" in fix else "")  # a manifest is not folded: it is to be copied
        if "---" not in fix:
            write_prose(fix)


def _mode(claims: Sequence[AirflowConfig]) -> Mode:
    """Whether Pods are deleted in a namespace of these."""
    return Mode.ENFORCE if any(a.mode is Mode.ENFORCE for a in claims) else Mode.REPORT


def _keeps_logs(claims: Sequence[AirflowConfig]) -> bool:
    """Whether the last log lines of a Pod are kept in a namespace of these: of one that is deleted."""
    return any(a.mode is Mode.ENFORCE and a.post_mortem.enabled and bool(a.post_mortem.log_lines) for a in claims)


def _cluster(config: Config, cluster: Cluster) -> Iterator[CheckLine]:
    what = "cluster"
    try:
        version, account = cluster.version(), cluster.whoami()
    except ClusterError as error:
        yield CheckLine(Status.FAIL, what, str(error))
        return
    yield CheckLine(
        Status.OK, what, f"Kubernetes {version} at {cluster.server}, as {account or 'an account it does not tell'}"
    )
    if elects(config, cluster.connection):
        yield from _lease(config, cluster, account)
    if config.history is HistoryMode.CONFIG_MAP and not only_looks(config, cluster.connection):
        yield from _history(config, cluster, account)
    events = not only_looks(config, cluster.connection)
    for namespace in exact_names(config.namespaces):
        claims = config.claim(namespace).airflows
        yield from _namespace(cluster, namespace, account, claims, events=events)
    if config.patterns:
        yield from _patterns(config, cluster, account, events=events)


def _patterns(config: Config, cluster: Cluster, account: str | None, *, events: bool) -> Iterator[CheckLine]:
    """Look at what the patterns stand for now. What is good is told once for all of its namespaces."""
    try:
        every = cluster.all_namespaces()
    except ClusterError as error:
        wide = _wide_manifest(config, account, events=events) if error.status == HTTPStatus.FORBIDDEN else ""
        for pattern in config.patterns:
            text = f"which namespaces it stands for can't be told, so that nothing is decided there: {error}"
            yield CheckLine(Status.FAIL, f"namespaces {pattern}", text, wide)
        return
    named, granted = set(config.namespaces), _granted_everywhere(config, cluster, events=events)
    for pattern in config.patterns:
        what, found = f"namespaces {pattern}", sorted(name for name in every - named if matches(pattern, name))
        named |= set(found)  # told once, where several patterns stand for it
        if not any(matches(pattern, name) for name in every):
            yield CheckLine(Status.WARN, what, NO_MATCH)
            continue
        good = 0
        for namespace in found:
            claims, problem = config.claim(namespace)
            if problem is not None:
                yield CheckLine(Status.FAIL, f"namespace {namespace}", f"nothing is decided there: {problem}")
                continue
            if granted:
                lines = [*_count(cluster, namespace, claims, may_be_empty=True)]
            else:
                lines = [*_namespace(cluster, namespace, account, claims, events=events, found=True)]
            yield from (line for line in lines if line.status is not Status.OK)
            good += all(line.status is Status.OK for line in lines)
        yield CheckLine(Status.OK, what, f"namespaces that only it stands for now: {len(found)}, all good in {good}")


def _granted_everywhere(config: Config, cluster: Cluster, *, events: bool) -> bool:
    """Whether a few questions for the rights in all namespaces stand for those about each one that patterns find."""
    claims = _with_patterns(config)
    rights = _wanted_rights(_keeps_logs(claims), events=events)
    needed = [each for each in rights if each != ("delete", "pods") or _mode(claims) is Mode.ENFORCE]
    with suppress(ClusterError):
        return all(cluster.can_i(verb, resource, "") for verb, resource in needed)
    return False


def _with_patterns(config: Config) -> list[AirflowConfig]:
    return [airflow for airflow in config.airflows if only_patterns(airflow.namespaces)]


def _lease(config: Config, cluster: Cluster, account: str | None) -> Iterator[CheckLine]:
    """Without these rights no replica ever leads, and nothing is done at all."""
    what, name = "lease", config.leader_election.name
    try:
        where = lease_namespace(cluster, config.leader_election)
        lacking = [verb for verb, named in _LEASE_RIGHTS if not _may_lease(cluster, verb, where, name if named else "")]
        if not lacking:
            yield _holder(config, where, lease_client(cluster, config.leader_election).get())
    except ClusterError as error:
        yield CheckLine(Status.FAIL, what, f"the Lease {name} can't be read: {error}")
        return
    for verb in lacking:
        text = f"may not {verb} leases in namespace {where}, without which it does nothing: grant it as shown below"
        yield CheckLine(Status.FAIL, what, text, lease_manifest(where, name, account))


def _holder(config: Config, where: str, found: Lease | None) -> CheckLine:
    """Say who holds the Lease, and warn where that one looks after other Airflows: then ours are never healed."""
    text = f"{config.leader_election.name} in namespace {where}: may be held; now held by "
    others = unserved(served(config.airflows), found) if found and found.holder else ()
    if others and found:
        named = ", ".join(others)
        what = (
            f"{found.holder}, which does not look after {named} (by name, namespaces and URL): while it leads, nothing "
            "is healed there"
        )
        return CheckLine(Status.WARN, "lease", text + what, _OWN_LEASE)
    return CheckLine(Status.OK, "lease", text + (found.holder if found and found.holder else "nobody"))


_OWN_LEASE = (
    "Give each installation a Lease of its own: the chart names it after its release; elsewhere set leaderElection.name"
)

_LEASE_RIGHTS = (("get", True), ("create", False), ("update", True))
"""What is needed, and whether it can be granted by name: RBAC can't name what is not there yet."""


def _may_lease(cluster: Cluster, verb: str, namespace: str, name: str) -> bool:
    return cluster.can_i(verb, "leases", namespace, group=LEASE_GROUP, name=name)


def _history(config: Config, cluster: Cluster, account: str | None) -> Iterator[CheckLine]:
    what, name = "history", history_name(config.leader_election)
    try:
        where = lease_namespace(cluster, config.leader_election)
        named = {verb: name if by_name else "" for verb, by_name in _LEASE_RIGHTS}
        lacking = [verb for verb, of in named.items() if not cluster.can_i(verb, "configmaps", where, name=of)]
    except ClusterError as error:
        yield CheckLine(Status.WARN, what, f"the rights on the ConfigMap {name} can't be told: {error}")
        return
    if not lacking:
        yield CheckLine(Status.OK, what, f"may be kept in the ConfigMap {name} in namespace {where}")
    for verb in lacking:
        text = f"may not {verb} configmaps in namespace {where}: the history is lost at each restart"
        yield CheckLine(Status.WARN, what, text, history_manifest(where, name, account))


def _namespace(
    cluster: Cluster,
    namespace: str,
    account: str | None,
    claims: Sequence[AirflowConfig],
    *,
    events: bool,
    found: bool = False,
) -> Iterator[CheckLine]:
    """Look at the rights and the Pods in one namespace. `found`: only a pattern stands for it: it may be empty."""
    what, mode, logs = f"namespace {namespace}", _mode(claims), _keeps_logs(claims)
    fix = manifest(namespace, mode, account, logs=logs, events=events)
    try:
        rights = _wanted_rights(logs, events=events)
        lines = [_right(cluster, namespace, verb, resource, mode, fix) for verb, resource in rights]
    except ClusterError as error:
        yield CheckLine(Status.FAIL, what, f"the rights can't be told: {error}")
        return
    yield from lines
    if lines[1].status is Status.OK:
        yield from _count(cluster, namespace, claims, may_be_empty=found)


_RIGHTS = (*((verb, "pods") for verb in NEEDED), ("delete", "pods"))
_EVENT_RIGHTS = (("create", "events"), ("patch", "events"))


def _wanted_rights(logs: bool, *, events: bool) -> tuple[tuple[str, str], ...]:
    return (*_RIGHTS, *(_EVENT_RIGHTS if events else ()), *((("get", LOG),) if logs else ()))


def _right(cluster: Cluster, namespace: str, verb: str, resource: str, mode: Mode, fix: str) -> CheckLine:
    what = f"namespace {namespace}"
    if cluster.can_i(verb, resource, namespace):
        return CheckLine(Status.OK, what, f"may {verb} {resource}")
    if resource == "events":
        return CheckLine(Status.WARN, what, f"may not {verb} events: users of kubectl will not see what was done", fix)
    if resource == LOG:
        return CheckLine(Status.WARN, what, f"may not {verb} {LOG}: a post-mortem will have no log lines", fix)
    if verb == "delete" and mode is Mode.REPORT:
        return CheckLine(Status.OK, what, "may not delete pods, and need not in report mode")
    return CheckLine(Status.FAIL, what, f"may not {verb} pods: grant it as shown below", fix)


def _count(
    cluster: Cluster, namespace: str, claims: Sequence[AirflowConfig], *, may_be_empty: bool = False
) -> Iterator[CheckLine]:
    what = f"namespace {namespace}"
    try:
        found = cluster.list_pods(namespace)
        why = None if found.pods or found.skipped or may_be_empty else cluster.why_empty(namespace)
    except ClusterError as error:
        yield CheckLine(Status.FAIL, what, str(error))
        return
    if why is not None:
        yield CheckLine(Status.FAIL, what, why)
        return
    yield CheckLine(Status.OK, what, f"KubernetesPodOperator Pods there now: {len(found.pods)}")
    if found.skipped:
        yield CheckLine(Status.WARN, what, undecodable([str(odd) for odd in found.skipped]))
    for airflow in claims:
        others = foreign_stamps(airflow, found.pods)
        if others:
            text = (
                f"Pods there are stamped for {', '.join(others)}, so that ownership: exclusive of {airflow.name} does "
                "not hold: what its Airflow does not name itself is never deleted there; set ownership: stamped"
            )
            yield CheckLine(Status.WARN, what, text)


def manifest(namespace: str, mode: Mode, account: str | None, *, logs: bool = False, events: bool = True) -> str:
    """Return the Role and RoleBinding that give an account what the healer needs in a namespace."""
    return _manifest("kpo-healer-pods", namespace, _rules(mode, logs=logs, events=events), account)


def lease_manifest(namespace: str, name: str, account: str | None) -> str:
    """Return the Role and RoleBinding that let an account hold the Lease."""
    rules = (
        f"{{apiGroups: [{LEASE_GROUP}], resources: [leases], resourceNames: [{name}], verbs: [get, update]}}",
        f"{{apiGroups: [{LEASE_GROUP}], resources: [leases], verbs: [create]}}",
    )
    return _manifest("kpo-healer-lease", namespace, rules, account)


def history_manifest(namespace: str, name: str, account: str | None) -> str:
    """Return the Role and RoleBinding that let an account keep the history."""
    rules = (
        f'{{apiGroups: [""], resources: [configmaps], resourceNames: [{name}], verbs: [get, update]}}',
        '{apiGroups: [""], resources: [configmaps], verbs: [create]}',
    )
    return _manifest("kpo-healer-history", namespace, rules, account)


def _wide_manifest(config: Config, account: str | None, *, events: bool) -> str:
    """Return the ClusterRole and its binding that patterns need, for what the Airflows with patterns do."""
    claims = _with_patterns(config)
    rules = ['{apiGroups: [""], resources: [namespaces], verbs: [get, list]}']
    rules += _rules(_mode(claims), logs=_keeps_logs(claims), events=events)
    return _manifest("kpo-healer-namespaces", None, rules, account)


def _rules(mode: Mode, *, logs: bool, events: bool) -> list[str]:
    verbs = [*NEEDED, "delete"] if mode is Mode.ENFORCE else list(NEEDED)
    rules = [f'{{apiGroups: [""], resources: [pods], verbs: [{", ".join(verbs)}]}}']
    rules += ['{apiGroups: [""], resources: [events], verbs: [create, patch]}'] if events else []
    rules += ['{apiGroups: [""], resources: [pods/log], verbs: [get]}'] if logs else []
    return rules


def _manifest(name: str, namespace: str | None, rules: Sequence[str], account: str | None) -> str:
    # A field in a line: so it fits 80 columns, and is whole where it is copied from a terminal.
    listed = "\n".join("  - " + rule.strip("{}").replace("], ", "]\n    ") for rule in rules)
    prefix, where = ("Cluster", "") if namespace is None else ("", f"\n  namespace: {namespace}")
    return f"""\
What the healer needs {f"in namespace {namespace}" if namespace else "in the cluster"}:
apply it with kubectl apply -f -
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {prefix}Role
metadata:
  name: {name}{where}
rules:
{listed}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {prefix}RoleBinding
metadata:
  name: {name}{where}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {prefix}Role
  name: {name}
subjects:
  - {_subject(account)}"""


def _subject(account: str | None) -> str:
    if account and account.startswith("system:serviceaccount:") and account.count(":") == 3:
        _, _, namespace, name = account.split(":")
        return f"kind: ServiceAccount\n    name: {name}\n    namespace: {namespace}"
    user = f'"{account}"' if account else "THE HEALER'S USER"
    return f"kind: User\n    apiGroup: rbac.authorization.k8s.io\n    name: {user}"


def _airflow(config: AirflowConfig) -> Iterator[CheckLine]:
    for found in probe(config).checks:
        yield CheckLine(found.status, f"airflow {config.name}", f"{found.name}: {found.text}")


def probe(config: AirflowConfig) -> Probe:
    """Ask one Airflow what works."""
    return Airflow(config).probe()
