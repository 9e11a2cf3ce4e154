"""`python -m tests.chaos --runs 1000 --seed 1 --report docs/chaos.md`: chaos on real parts; exit 1 when it failed."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.chaos import traces
from tests.chaos.director import AT_ONCE, Plan
from tests.chaos.report import Outcome, markdown
from tests.chaos.run import chaos
from tests.lab.airflow_env import FULL, full_version
from tests.lab.processes import LabError, new_folder, remove_folder, say, stop_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="task instances to run at least (default: 1000)")
    parser.add_argument("--airflow", metavar="VERSION", help=f"another Airflow than {FULL}, such as 2.11")
    parser.add_argument("--seed", type=int, default=1, help="decides what happens (default: 1)")
    parser.add_argument("--minutes", type=float, default=0, help="go on for at least so long")
    parser.add_argument("--replicas", type=int, default=2, help="how many kpo-healers (default: 2)")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help=f"runs side by side (default: {AT_ONCE})")
    parser.add_argument("--storm", type=float, default=1, help="how many times the usual bad weather (default: 1)")
    parser.add_argument("--report", type=Path, help="write the report here; else it goes to standard output")
    parser.add_argument("--sabotage", help="a fault in kpo-healer that has to be found: see tests/lab/sabotage.py")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs, databases and recorded histories")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    folder = options.keep.absolute() if options.keep else new_folder("kpo-healer-chaos-")
    plan = Plan(options.runs, options.seed, options.minutes, options.at_once, options.storm)
    try:
        version = full_version(options.airflow)
        outcome = chaos(plan, folder, replicas=options.replicas, sabotage=options.sabotage, version=version)
        return _tell(outcome, options.report)
    except LabError as error:
        say(f"chaos: {error}")
        return 3
    except KeyboardInterrupt:
        stop_all()
        return 130
    finally:
        if not options.keep:
            remove_folder(folder)


def _tell(outcome: Outcome, report: Path | None) -> int:
    text, failures = markdown(outcome), outcome.failures
    report.write_text(text) if report else sys.stdout.write(text)
    if report:
        traces.keep(outcome.refused, report.with_name(f"{report.stem}-refused"))
    for line in outcome.director.trouble[:20]:
        say(f"a call of the test's own got no answer, as servers are killed here; its run goes on without it: {line}")
    say("failed: " + "; ".join(failures) if failures else "passed")
    return 1 if failures else 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
