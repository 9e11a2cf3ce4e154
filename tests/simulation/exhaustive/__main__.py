"""`python -m tests.simulation.exhaustive --depth 4`: walks every order of events, and tells the figures.

The theme `everything` goes to the depth that is asked for; the narrower themes go further.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.simulation.exhaustive.jobs import Job, run
from tests.simulation.exhaustive.report import Made, markdown, story
from tests.simulation.exhaustive.scenes import SCENES, scene_of
from tests.simulation.exhaustive.walk import THEMES, theme_of


def _jobs(options: argparse.Namespace) -> list[Job]:
    return [
        (scene.name, theme.name, options.depth + theme.further, options.seconds)
        for theme in THEMES
        if options.theme in {None, theme.name}
        for scene in SCENES
        if options.scene in {None, scene.name} and (not theme.scenes or scene.name in theme.scenes)
    ]


def _made(jobs: Sequence[Job], processes: int) -> Iterator[Made]:
    with ProcessPoolExecutor(processes) as pool:
        for job, report in zip(jobs, pool.map(run, jobs), strict=True):
            made = Made(scene_of(job[0]), theme_of(job[1]), report)
            print(f"{job[0]}, {job[1]}: depth {report.depth}, {report.states:,} states", file=sys.stderr, flush=True)
            yield made


def main() -> int:
    """Walk, report, and return the exit code: 1 after a violation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=3, help="events, for the theme `everything`")
    parser.add_argument("--seconds", type=float, default=1e9, help="for each walk at most")
    parser.add_argument("--scene", choices=[scene.name for scene in SCENES])
    parser.add_argument("--theme", choices=[theme.name for theme in THEMES])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--report", type=Path, help="write the figures as Markdown to this file too")
    options = parser.parse_args()
    made = list(_made(_jobs(options), options.processes))
    text = markdown(made)
    print(text)
    if options.report is not None:
        options.report.write_text(text + "\n")
    failed = [each for each in made if each.report.violation is not None]
    for each in failed:
        print(f"\n{story(each)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
