"""The commands, each a few lines: read the options, ask, print, answer with an exit code.

What asks and prints is imported when it is needed: Airflow's client alone takes a second.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from msgspec import Struct

from healer import __version__
from healer.cli import completion
from healer.cli.help import GroupedCommand
from healer.cli.options import (
    CommandContext,
    configured,
    healer_at,
    listen_token,
    output,
    output_in,
    remote,
    remote_only,
)
from healer.cli.output import can_ask, write, write_error, write_prose
from healer.cluster import Cluster
from healer.config import parse_duration, warnings
from healer.errors import NoReaderError
from healer.log import get_logger
from healer.memory import limit_arenas, tune_gc
from healer.model import Action, Reason, printable, rfc3339_utc
from healer.redaction import scrubbed

if TYPE_CHECKING:
    from healer.cli.remote import Healer, RemoteFindings
    from healer.cli.selection import Selection

log = get_logger(__name__)

GOOD = 0
FOUND = 1
NOT_GOOD = 1
INCOMPLETE = 3

EVERY, SHORTEST = 5.0, 1.0
"""Seconds between two looks of --watch at a running healer, and at the least."""


_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
"""What Kubernetes allows as a Pod's name; whatever else is asked for can't exist."""


class _Group(click.Group):
    """Turns a reader that has gone into an exception of ours: click would answer it with 1, which means "found"."""

    command_class = GroupedCommand

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise NoReaderError from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every option of the configuration has a variable too, as KPO_HEALER_MODE. Options stand after the command.",
)
@click.version_option(__version__, prog_name="kpo-healer", message="%(prog)s %(version)s")
def cli() -> None:
    """Find the Pods that Airflow's KubernetesPodOperator left behind, and report or delete them."""
    tune_gc()


@cli.command()
@click.option("--once", is_flag=True, help="Heal what is there now and end, as for a CronJob.")
@output
@configured(quiet=False)
def run(session: CommandContext, once: bool, form: str) -> int:
    """Run the controller until SIGTERM; or with --once heal what is there now.

    With --once it says what of the policy it can't carry out, takes the Lease, looks, waits for at most the longest
    grace, confirms, acts, and lists what is due later. Exit status: 0 after a clean stop; with --once 0 when done, 3
    when incomplete, when the policy has what no such run can do, or when another replica leads.
    """
    if not once:
        if click.get_current_context().get_parameter_source("form") is not ParameterSource.DEFAULT:
            raise click.UsageError("run prints no answer: give --output with --once only")
        from healer import controller

        limit_arenas()
        _tell_warnings(session)
        return controller.run(session.config, session.connection)
    from healer.cli import findings, lease
    from healer.cli.run_once import heal_once, shortcomings
    from healer.cli.watch import progress
    from healer.leader_election import only_looks

    _tell_warnings(session)
    for text in shortcomings(session.config):
        log.warning("run --once can't carry out all of the policy", why=text)
    cluster = _cluster(session)
    with lease.held(session.config, cluster) as held, progress() as on_progress:
        events = not only_looks(session.config, session.connection)
        healed = heal_once(session.config, cluster, held, events=events, on_progress=on_progress)
        lost = () if held.is_leader() else ("the Lease was lost meanwhile: what was left is for the next run",)
    findings.show_healed(healed, form)
    return _completeness((*healed.incomplete, *lost))


def _tell_warnings(session: CommandContext) -> None:
    """Say in the log what `check` warns of: whoever only reads that would else never hear of it."""
    for text in warnings(session.config, os.environ):
        log.warning("the configuration is allowed and unwise", why=text)


SCAN_FORMS = ("table", "wide", "name", "csv", "json", "yaml")

SORT_BY = ("pod", "reason", "dag", "age", "due", "cpu", "memory")


@cli.command()
@click.option("--all", "everything", is_flag=True, help="Show every KubernetesPodOperator Pod, suspects first.")
@click.option("--notices", "only_notices", is_flag=True, help="Show only what is worth a look and is no orphan.")
@click.option(
    "--reason",
    type=click.Choice([each.value for each in Reason]),
    multiple=True,
    help="Only these; may be repeated.",
    metavar="REASON",
)
@click.option("--dag", multiple=True, metavar="DAG_ID", help="Only Pods of these DAGs; may be repeated.")
@click.option(
    "-l", "--selector", metavar="SELECTOR", default="", help="Only Pods with these labels, as dag_id=etl,task_id!=load."
)
@click.option("--sort-by", type=click.Choice(SORT_BY), help="The oldest, largest or next due first; else by Pod.")
@click.option("--by", type=click.Choice(["dag"]), help="Show what each DAG wastes instead, most first.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value="",
    metavar="[DURATION]",
    help="Look again and again until Ctrl-C; every interval, or with --from every 5s, if no duration is given.",
)
@remote
@listen_token
@output_in(*SCAN_FORMS)
@configured(quiet=True)
def scan(session: CommandContext | None, source: str, token_file: str | None, watch: str | None, **options: Any) -> int:
    """Look once at every Pod and show the suspects, and what else is worth a look; change nothing.

    With --from it asks nobody else: a running healer tells what it has found, and since when. On a terminal the table
    fits its width, and `…` stands where something is cut; -o wide has all columns, and elsewhere nothing is cut.

    Exit status: 0 nothing found, 1 something found, 3 incomplete (wins over 1). Without --notices only suspects count;
    what --reason, --dag and --selector leave out does not count.
    """
    scan = _scan(**options)

    def seen() -> RemoteFindings:
        return _look(session, scan.everything) if session else _read(healer_at(source, token_file), scan.everything)

    if watch is None:
        return _scan_once(scan, seen)
    if scan.form not in ("table", "wide"):
        raise click.UsageError(f"--watch shows a table: leave --output {scan.form} away")
    due_times: dict[str, tuple[str, str]] | None = {} if session else None

    def look(begin: Callable[[], None]) -> int:
        return _scan_once(scan, seen, begin, due_times)

    return _watch(look, _every(watch, session))


class _Scan(Struct, frozen=True):
    """What the options of `scan` ask for."""

    everything: bool
    only_notices: bool
    selection: Selection
    by: str | None
    form: str


def _scan(
    everything: bool,
    only_notices: bool,
    reason: tuple[str, ...],
    dag: tuple[str, ...],
    selector: str,
    sort_by: str | None,
    by: str | None,
    form: str,
) -> _Scan:
    from healer.cli.selection import Selection, parse_selector

    try:
        selection = Selection(reason, dag, parse_selector(selector), sort_by)
    except ValueError as error:
        raise click.UsageError(f"--selector: {error}") from None
    if by and (only_notices or form in ("wide", "name")):
        raise click.UsageError("--by shows DAGs: leave --notices and --output wide or name away")
    return _Scan(everything, only_notices, selection, by, form)


def _scan_once(
    scan: _Scan,
    look: Callable[[], RemoteFindings],
    begin: Callable[[], None] = lambda: None,
    due_times: dict[str, tuple[str, str]] | None = None,
) -> int:
    seen = look()
    if due_times is not None:
        from healer.cli.watch import keep_due_times

        keep_due_times(seen.found, due_times)
    begin()
    return _show(seen, scan)


def _show(seen: RemoteFindings, scan: _Scan) -> int:
    from healer.cli import findings, selection

    looked_at = None if seen.incomplete else seen.pods
    chosen, notices = scan.selection.of(seen.found), scan.selection.of_notices(seen.notices)
    found = findings.suspects(chosen)
    if scan.by:
        selection.show_wastes(selection.by_dag(found), scan.form, looked_at=looked_at, now=time.time())
    elif scan.only_notices:
        findings.show_notices(notices, scan.form, looked_at=looked_at)
    else:
        shown = chosen if scan.everything else found
        findings.show(shown, scan.form, looked_at=looked_at, notices=notices, now=seen.now)
    findings.show_undecodable(seen.undecodable, scan.form, total=seen.undecodable_total)
    return _completeness(seen.incomplete) or (FOUND if (notices if scan.only_notices else found) else GOOD)


def _every(watch: str, session: CommandContext | None) -> float:
    """Return the seconds between two looks."""
    if not watch:
        return session.config.interval if session else EVERY
    try:
        return max(parse_duration(watch), SHORTEST)
    except ValueError as error:
        raise click.UsageError(f"--watch: {error}") from None


def _watch(look: Callable[[Callable[[], None]], int], every: float) -> int:
    from healer.cli.watch import watch
    from healer.errors import ClusterError, RemoteError

    watch(look, every, (RemoteError, ClusterError))
    return GOOD


def _read(healer: Healer, everything: bool) -> RemoteFindings:
    from msgspec.structs import replace

    from healer.cli.remote import fetch, fetch_notices

    found = fetch(healer, all="true") if everything else fetch(healer)
    return replace(found, notices=fetch_notices(healer))


def _look(session: CommandContext, everything: bool) -> RemoteFindings:
    from healer.cli import findings
    from healer.cli.oneshot import scan as look
    from healer.cli.remote import RemoteFindings
    from healer.cli.watch import progress

    cluster = _cluster(session)
    with progress() as on_progress:
        seen = look(session.config, cluster, on_progress)
    notices = tuple(notable.to_dict() for notable in seen.notices)
    wanted = seen.findings if everything else [view for view in seen.findings if view.action is not Action.KEEP]
    odd = tuple(map(str, seen.undecodable))
    told = findings.told(wanted)
    return RemoteFindings(told, len(seen.findings), seen.incomplete, notices, odd, now=cluster.now())


@cli.command()
@click.argument("pod", metavar="[NAMESPACE/]POD", required=False, shell_complete=completion.pods)
@click.option("--proof", metavar="FILE", help="Judge recorded proofs again, offline: a log file, or - for stdin.")
@click.option("--pod", "about", metavar="NAMESPACE/POD", help="With --proof: only the proofs about this Pod.")
@remote
@listen_token
@output
@configured(quiet=True)
def explain(
    session: CommandContext | None,
    pod: str | None,
    proof: str | None,
    about: str | None,
    source: str,
    token_file: str | None,
    form: str,
) -> int:
    """Say all about one Pod: its labels, what Airflow says, every rule tried and why it did or did not match.

    NAMESPACE may be left away where the configuration has only one.

    With --from it says what a running healer has found, and since when. With --proof it judges decisions out of a log
    again; no server is asked and no configuration is needed.

    Exit status: 0, or 3 when Airflow gave no clear answer; with --proof 0 when today's rules agree with every decision,
    1 when not.
    """
    if proof is not None and source:
        raise click.UsageError("--proof reads a log and --from a running healer: give one of them")
    if proof is not None:
        return _replay(proof, about or pod, form)
    if about is not None or pod is None:
        raise click.UsageError("which Pod? Write explain NAMESPACE/POD, as airflow/my-task-abc123")
    return _explain(session or healer_at(source, token_file), pod, form)


def _replay(source: str, pod: str | None, form: str) -> int:
    from healer.cli import replay
    from healer.errors import InvalidRecordError

    found = replay.replayed(source, pod)
    replay.show(found.verdicts, form)
    if found.trouble is not None:
        raise InvalidRecordError(found.trouble)
    return GOOD if all(verdict.agrees for verdict in found.verdicts) else NOT_GOOD


def _explain(asked: CommandContext | Healer, pod: str, form: str) -> int:
    from healer.cli import explain

    namespace, name = _names(asked, pod)
    if not isinstance(asked, CommandContext):
        return _explain_found(asked, f"{namespace}/{name}", form)
    from healer.cli.oneshot import explain as look

    cluster = _cluster(asked)
    explanation = look(asked.config, cluster, namespace, name)
    mode = next(a.mode for a in asked.config.airflows if a.name == explanation.view.airflow)
    explain.show(explanation, form, now=cluster.now(), mode=mode)
    return _completeness(explain.missing(explanation.view.to_dict()))


def _names(asked: CommandContext | Healer, pod: str) -> tuple[str, str]:
    """Return namespace and name, also where only POD is given and there is but one namespace to look in."""
    config = asked.config if isinstance(asked, CommandContext) else None
    namespaces = config.namespaces if config else []
    several = len(namespaces) > 1 or bool(config and config.patterns)
    if "/" not in pod and _NAME.fullmatch(pod) and several:
        raise click.UsageError("several namespaces are configured: write NAMESPACE/POD, as airflow/my-task-abc123")
    namespace, _, name = (f"{namespaces[0]}/{pod}" if "/" not in pod and namespaces else pod).partition("/")
    if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(name)):
        raise click.UsageError("that is no Pod's name: write NAMESPACE/POD, as airflow/my-task-abc123")
    return namespace, name


def _explain_found(healer: Healer, pod: str, form: str) -> int:
    from healer.cli import explain
    from healer.cli.remote import fetch
    from healer.errors import NoSuchPodError

    found = next(iter(fetch(healer, pod=pod).found), None)
    if found is None:
        raise NoSuchPodError(f"that healer knows no Pod {pod}: look with kpo-healer scan --all --from")
    explain.show_found(found, form)
    return _completeness(explain.missing(found))


@cli.command()
@click.argument("pod", metavar="[NAMESPACE/]POD", shell_complete=completion.pods)
@click.option("--yes", is_flag=True, help="Answer the question with yes; needed where there is no terminal.")
@click.option(
    "--wait", metavar="DURATION", help="How long to wait at most until it is due; the Airflow's grace by default."
)
@output
@configured(quiet=True, audit=True)
def delete(session: CommandContext, pod: str, yes: bool, wait: str | None, form: str) -> int:
    """Delete one Pod, with the same proof, limits and preconditions as the controller, and never without them.

    It looks at all Pods of its Airflow, shows what would be deleted and why, asks, looks again until the Pod's patience
    is over, and deletes it if it is still the same case. It needs no Lease and acts beside whoever leads; in report
    mode it refuses. NAMESPACE may be left away where the configuration has only one.

    Exit status: 0 deleted, or gone meanwhile; 1 kept, by a rule, by the policy, by what withholds it, as it is not due
    in time, or as the answer was no; 2 no such Pod, or nobody to ask; 3 it could not be deleted, or Airflow gave no
    clear answer.
    """
    if not yes and not can_ask(form):
        raise click.UsageError("there is no terminal to ask on: look with kpo-healer explain, then give --yes")
    try:
        patience = parse_duration(wait) if wait else None
    except ValueError as error:
        raise click.UsageError(f"--wait: {error}") from None
    return _delete(session, *_names(session, pod), yes=yes, patience=patience, form=form)


def _delete(session: CommandContext, namespace: str, name: str, *, yes: bool, patience: float | None, form: str) -> int:
    from healer.cli import lease
    from healer.cli.delete import PodDeletion, show
    from healer.cli.watch import progress
    from healer.errors import KeptError

    cluster = _cluster(session)
    leadership = lease.beside(session.config, cluster)
    deletion = PodDeletion(session.config, cluster, leadership, namespace, name, patience=patience)
    with progress() as on_progress:
        plan = deletion.look(on_progress)
    tell = write_prose if form == "table" else write_error
    for line in plan.lines():
        tell(line, " " * 12)
    if not yes and not click.confirm(plan.question, err=form != "table"):
        raise KeptError(f"{deletion.pod} is not deleted: the answer was no")
    with progress() as on_progress:
        deleted = deletion.carry_out(on_progress)
    show(deleted, form)
    return GOOD


@cli.command()
@remote_only
@listen_token
@click.option("--days", type=click.IntRange(1, 14), default=14, metavar="N", help="Of the last N days; 14 at most.")
@click.option("--airflow", metavar="NAME", help="Only those of this Airflow.")
@click.option("--dag", metavar="DAG_ID", help="Only those of this DAG.")
@output
@configured(quiet=True)
def history(
    _session: None, source: str, token_file: str | None, days: int, airflow: str | None, dag: str | None, form: str
) -> int:
    """Show what a running healer has deleted lately, newest first: when, what, why, and what that held.

    It reads it from the healer that --from names and asks nobody else.

    Exit status: 0, or 3 where no healer answers there, or it does not lead.
    """
    from healer.cli import findings
    from healer.cli.remote import fetch_history

    wanted = {"days": str(days), "airflow": airflow, "dag": dag}
    query = {name: value for name, value in wanted.items() if value is not None}
    healed = fetch_history(healer_at(source, token_file), **query)
    findings.show_history(healed.deleted, form, since=healed.since)
    return GOOD


@cli.command()
@output
@configured(quiet=True)
def check(session: CommandContext, form: str) -> int:
    """Check the configuration, the cluster, the rights there, and each Airflow; say how to mend what is not good.

    Exit status: 0 all good, 1 not. Warnings do not change it.
    """
    from healer.cli import check

    lines = list(check.check(session.config, _cluster(session), os.environ))
    check.show(lines, form)
    return GOOD if check.all_good(lines) else NOT_GOOD


@cli.command()
@click.option("--airflow", required=True, metavar="NAME", help="Whose breaker.", shell_complete=completion.airflows)
@configured(quiet=True)
def release(session: CommandContext, airflow: str) -> int:
    """Lift the open breaker of one Airflow for an hour: all that is pending deletion there may be deleted.

    Look with scan what that is before. Exit status: 0.
    """
    from healer.cli import lease

    until = lease.override_breaker(session.config, _cluster(session), airflow)
    write_prose(f"The breaker of Airflow {airflow} is lifted until {rfc3339_utc(until)}.")
    return GOOD


@cli.group(cls=_Group)
def token() -> None:
    """Print a token of a platform, for exec in the configuration: an ExecCredential, as kubectl knows it."""


@token.command("google")
def token_google() -> int:
    """Print an access token of Google's Application Default Credentials, as for Cloud Composer.

    Needs the extra google. Exit status: 0, or 3 when there is none.
    """
    from healer.cli.token import google

    write(str(google()))
    return GOOD


@token.command("mwaa")
@click.option("--environment", required=True, metavar="NAME", help="The MWAA environment.")
@click.option("--region", metavar="NAME", help="Its region; else that of the environment or of the profile.")
def token_mwaa(environment: str, region: str | None) -> int:
    """Print what Airflow on Amazon MWAA takes: a token of Airflow 3, or a session's cookie of Airflow 2.

    Needs the extra aws and the right airflow:CreateWebLoginToken. Exit status: 0, or 3 when there is none.
    """
    from healer.cli.token import mwaa

    write(str(mwaa(environment, region)))
    return GOOD


def _cluster(session: CommandContext) -> Cluster:
    return Cluster(session.connection, freshness=session.config.freshness, owner_labels=session.config.owner_labels)


def _completeness(incomplete: Sequence[str]) -> int:
    for why in incomplete:
        write_error(f"incomplete: {printable(scrubbed(why))}")
    return INCOMPLETE if incomplete else GOOD
