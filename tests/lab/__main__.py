"""`python -m tests.lab …`: the lab by hand."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import FrameType

from tests.lab.airflow_env import full_version
from tests.lab.assets import binaries
from tests.lab.chart_assets import prepare as prepare_chart
from tests.lab.kube import Cluster
from tests.lab.processes import LabError, say, stop_all
from tests.lab.prometheus_assets import programs


def main() -> int:
    options = _parser().parse_args()
    # SIGINT too: a shell starts what it puts in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _terminate)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except LabError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="A real cluster and a real Airflow.")
    commands = parser.add_subparsers(required=True, metavar="command")
    cluster = commands.add_parser("cluster", help="a cluster that runs until Ctrl-C")
    cluster.add_argument("--root", type=Path, help="folder for its files; kept afterwards")
    cluster.add_argument("--namespace", "-n", action="append", default=[], help="created at the start; repeatable")
    cluster.set_defaults(run=_cluster)
    prepare = commands.add_parser("prepare", help="builds and installs what the lab needs, once")
    prepare.add_argument("--chart", action="store_true", help="also what renders and checks the Helm chart")
    prepare.set_defaults(run=_prepare)
    demo = commands.add_parser("demo", help="real orphans, healed")
    demo.add_argument("--keep", action="store_true", help="leave everything running at the end")
    demo.add_argument("--sabotage", metavar="NAME", help="run kpo-healer with a fault in it: the demo must fail")
    demo.add_argument("--airflow", metavar="VERSION", help="2.11, 2.10, or a whole version (default: the newest)")
    demo.set_defaults(run=_demo)
    picture = commands.add_parser("picture", help="the demo up to its `scan`, which is recorded as a picture")
    picture.add_argument("file", type=Path, help="the SVG to write")
    picture.set_defaults(run=_picture)
    return parser


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _cluster(options: argparse.Namespace) -> int:
    with Cluster.start(options.root) as cluster:
        for name in options.namespace:
            cluster.namespace(name)
        try:  # whoever reads that it is up may stop it at once
            print(f"export KUBECONFIG={cluster.kubeconfig}", flush=True)
            say(f"{cluster.url} is up; logs are in {cluster.root}; Ctrl-C stops it")
            threading.Event().wait()
        except KeyboardInterrupt:
            say("stopping")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    """The build needs the processor, the installation mostly the network: side by side."""
    with ThreadPoolExecutor() as pool:
        try:
            steps = [pool.submit(step) for step in (programs, binaries, *_airflow_steps())]
            for step in as_completed(steps):
                step.result()
        except BaseException:  # Ctrl-C too: the other threads would go on for minutes
            stop_all()
            raise
    if options.chart:
        prepare_chart()  # afterwards: most of helm is compiled by then, as the API server shares it
    say("the lab is ready")
    return 0


def _airflow_steps() -> list[Callable[[], object]]:
    if importlib.util.find_spec("tests.lab.airflow") is None:
        return []
    return [importlib.import_module("tests.lab.airflow").prepare]


def _demo(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("tests.lab.demo") is None:
        raise LabError("there is no demo yet: tests/lab/demo.py is missing")
    main = importlib.import_module("tests.lab.demo").main
    code: int = main(keep=options.keep, sabotage=options.sabotage, version=full_version(options.airflow))
    return code


def _picture(options: argparse.Namespace) -> int:
    importlib.import_module("tests.lab.demo.picture").main(options.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
