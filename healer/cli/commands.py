"""The commands, each a few lines: read the options, ask, print, answer with an exit code.

What asks and prints is imported when it is needed: Airflow's client alone takes a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from healer import __version__
from healer.allocator import collect_rarely, limit_arenas
from healer.cli.options import Session, configured, output, remote
from healer.cli.output import NoReaderError
from healer.cluster import Cluster
from healer.config import parse_duration
from healer.model import Action, zulu

if TYPE_CHECKING:
    from healer.cli.remote import Findings

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
    collect_rarely()


@cli.command()
@click.option("--once", is_flag=True, help="Heal what is there now and end, as for a CronJob.")
@output
@configured(quiet=False)
def run(session: Session, once: bool, form: str) -> int:
    """Run the controller until SIGTERM; or with --once heal what is there now.

    With --once it takes the Lease, looks, waits for at most the longest grace, confirms, acts, and lists what is due
    later. Exit status: 0 after a clean stop; with --once 0 when done, 3 when incomplete or another replica leads.
    """
    if not once:
        if click.get_current_context().get_parameter_source("form") is not ParameterSource.DEFAULT:
            raise click.UsageError("run prints no answer: give --output with --once only")
        from healer import controller

        limit_arenas()
        return controller.run(session.config, session.connection)
    from healer.cli import findings, office
    from healer.leader import is_released
    from healer.reconcile import heal_once

    cluster = _cluster(session)
    with office.held(session.config, cluster) as held:
        healed = heal_once(
            session.config,
            cluster,
            right=held.leads,
            lifted=lambda airflow: is_released(held.annotations, airflow, cluster.now()),
        )
        lost = () if held.leads() else ("the Lease was lost meanwhile: what was left is for the next run",)
    findings.show_healed(healed, form)
    return _completeness((*healed.incomplete, *lost))


@cli.command()
@click.option("--all", "everything", is_flag=True, help="Show every KubernetesPodOperator Pod, not only suspects.")
@click.option("--notices", "only_notices", is_flag=True, help="Show only what is worth a look and is no orphan.")
@click.option(
    "--watch",
    is_flag=False,
    flag_value="",
    metavar="[DURATION]",
    help="Look again and again until Ctrl-C; every interval, or with --from every 5s, if no duration is given.",
)
@remote
@output
@configured(quiet=True)
def scan(
    session: Session | None, everything: bool, only_notices: bool, watch: str | None, source: str, form: str
) -> int:
    """Look once at every Pod and show the suspects, and what else is worth a look; change nothing.

    With --from it asks nobody else: a running healer tells what it has found, and since when.

    Exit status: 0 nothing found, 1 something found, 3 incomplete (wins over 1). Without --notices only suspects count.
    """

    def look(begin: Callable[[], None] = lambda: None) -> int:
        seen = _look(session, everything) if session else _read(source, everything)
        begin()
        return _show(seen, everything, only_notices, form)

    if watch is None:
        return look()
    if form != "table":
        raise click.UsageError(f"--watch shows a table: leave --output {form} away")
    return _watch(look, _every(watch, session))


def _show(seen: Findings, everything: bool, only_notices: bool, form: str) -> int:
    from healer.cli import findings

    looked_at = None if seen.incomplete else seen.pods
    found = findings.suspects(seen.found)
    if only_notices:
        findings.show_notices(seen.notices, form, looked_at=looked_at)
    else:
        findings.show(seen.found if everything else found, form, looked_at=looked_at, notices=seen.notices)
    return _completeness(seen.incomplete) or (FOUND if (seen.notices if only_notices else found) else GOOD)


def _every(watch: str, session: Session | None) -> float:
    """Return the seconds between two looks."""
    if not watch:
        return session.config.interval if session else EVERY
    try:
        return max(parse_duration(watch), SHORTEST)
    except ValueError as error:
        raise click.UsageError(f"--watch: {error}") from None


def _watch(look: Callable[[Callable[[], None]], int], every: float) -> int:
    from healer.cli.live import watch
    from healer.cli.remote import RemoteError
    from healer.cluster import ClusterError

    watch(look, every, (RemoteError, ClusterError))
    return GOOD


def _read(source: str, everything: bool) -> Findings:
    from msgspec.structs import replace

    from healer.cli import remote as healer

    found = healer.fetch(source, all="true") if everything else healer.fetch(source)
    return replace(found, notices=healer.fetch_notices(source))


def _look(session: Session, everything: bool) -> Findings:
    from healer.cli import findings
    from healer.cli.live import progress
    from healer.cli.remote import Findings
    from healer.reconcile import scan as look

    with progress() as tell:
        seen = look(session.config, _cluster(session), tell)
    notices = tuple(notable.to_dict() for notable in seen.notices)
    wanted = seen.findings if everything else [shown for shown in seen.findings if shown.action is not Action.KEEP]
    return Findings(findings.told(wanted), len(seen.findings), seen.incomplete, notices)


@cli.command()
@click.argument("pod", metavar="NAMESPACE/POD", required=False)
@click.option("--proof", metavar="FILE", help="Judge recorded proofs again, offline: a log file, or - for stdin.")
@click.option("--pod", "about", metavar="NAMESPACE/POD", help="With --proof: only the proofs about this Pod.")
@remote
@output
@configured(quiet=True)
def explain(
    session: Session | None, pod: str | None, proof: str | None, about: str | None, source: str, form: str
) -> int:
    """Say all about one Pod: its labels, what Airflow says, every rule tried and why it did or did not match.

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
    return _explain(session, source, pod, form)


def _replay(source: str, pod: str | None, form: str) -> int:
    from healer.cli import replaying
    from healer.reconcile.proof import UnusableProofError

    found = replaying.replayed(source, pod)
    replaying.show(found.verdicts, form)
    if found.trouble is not None:
        raise UnusableProofError(found.trouble)
    return GOOD if all(verdict.agrees for verdict in found.verdicts) else NOT_GOOD


def _explain(session: Session | None, source: str, pod: str, form: str) -> int:
    from healer.cli import explaining

    namespace, _, name = pod.partition("/")
    if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(name)):
        raise click.UsageError(f"{pod!r} is no Pod's name: write NAMESPACE/POD, as airflow/my-task-abc123")
    if session is None:
        return _explain_found(source, pod, form)
    from healer.reconcile import explain as look

    cluster = _cluster(session)
    explanation = look(session.config, cluster, namespace, name)
    mode = next(a.mode for a in session.config.airflows if a.name == explanation.shown.airflow)
    explaining.show(explanation, form, now=cluster.now(), mode=mode)
    return _completeness(explaining.missing(explanation.shown.to_dict()))


def _explain_found(source: str, pod: str, form: str) -> int:
    from healer.cli import explaining
    from healer.cli.remote import fetch
    from healer.reconcile import NoSuchPodError

    found = next(iter(fetch(source, pod=pod).found), None)
    if found is None:
        raise NoSuchPodError(f"that healer knows no Pod {pod}: look with kpo-healer scan --all --from")
    explaining.show_found(found, form)
    return _completeness(explaining.missing(found))


@cli.command()
@output
@configured(quiet=True)
def check(session: Session, form: str) -> int:
    """Check the configuration, the cluster, the rights there, and each Airflow; say how to mend what is not good.

    Exit status: 0 all good, 1 not. Warnings do not change it.
    """
    from healer.cli import checks

    lines = list(checks.check(session.config, _cluster(session), os.environ))
    checks.show(lines, form)
    return GOOD if checks.all_good(lines) else NOT_GOOD


@cli.command()
@click.option("--airflow", required=True, metavar="NAME", help="Whose breaker.")
@configured(quiet=True)
def release(session: Session, airflow: str) -> int:
    """Lift the open breaker of one Airflow for an hour: all that is condemned there may be deleted.

    Look with scan what that is before. Exit status: 0.
    """
    from healer.cli import office

    until = office.release(session.config, _cluster(session), airflow)
    click.echo(f"The breaker of Airflow {airflow} is lifted until {zulu(until)}.")
    return GOOD


def _cluster(session: Session) -> Cluster:
    return Cluster(session.connection, freshness=session.config.freshness)


def _completeness(incomplete: Sequence[str]) -> int:
    for why in incomplete:
        click.echo(f"incomplete: {why}", err=True)
    return INCOMPLETE if incomplete else GOOD
