"""`python -m tests.node [pytest's words]`: the tests of the real node, in namespaces that take all with them.

`python -m tests.node demo`: the demo with real containers, in the same way.

Everything (etcd, API server, Airflow, containerd, kubelet, containers, the tests) runs inside one `unshare`. When that
process ends, however it ends, the kernel ends the rest: no process, mount, link or address outlives it. What the kernel
does not take away, control groups and temporary files, is removed here, or by the next run where this one was killed.
Afterwards the machine is compared with before.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from tests.lab import airflow
from tests.lab.assets import binaries
from tests.lab.chart_assets import helm
from tests.lab.processes import LabError, say, wait_for
from tests.node import machine, product
from tests.node.assets import programs
from tests.node.cluster import ADDRESS, CGROUP

NAMESPACES: Final = (
    *("setpriv", "--pdeathsig", "KILL"),  # it dies with us, however we do
    *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)

INSIDE: Final = 'ip link set lo up && ip address add "$0/32" dev lo && { "$@" & wait $!; }'
"""bash is process 1 in there: it takes the exit codes of processes whose parents are gone, and Python would not."""


def main(words: Sequence[str]) -> int:
    if reason := machine.hindrance():
        say(f"skipped: {reason}")
        return 0
    prepare()
    demo = list(words) == ["demo"]
    command = ["tests.node.demo"] if demo else ["pytest", *(words or [str(Path(__file__).parent)])]
    given = {} if demo else {product.GIVEN: str(product.image())}
    machine.sweep()
    before = machine.facts()
    begin = time.monotonic()
    code = run([sys.executable, "-m", *command], given)
    changed = machine.differences(before, machine.facts())
    say(f"the real node's {'demo' if demo else 'tests'} ended with {code} after {time.monotonic() - begin:.0f} s")
    say("the machine is as before" if not changed else "error: changed on the machine:\n" + "\n".join(changed))
    return code or bool(changed)


def prepare() -> None:
    """Downloads and builds what is missing, while there still is a network."""
    programs(), binaries(), helm()
    airflow.prepare()


def run(command: Sequence[str], given: Mapping[str, str]) -> int:
    """Runs a command in new namespaces, with a control group and a folder for temporary files; its exit code.

    given: variables for it.
    """
    sysctls = ";".join(f"{name}={value}" for name, value in machine.guarded().items())
    cgroup = machine.make_cgroup()
    folder = tempfile.mkdtemp(prefix=f"{machine.FOLDER}{os.getpid()}-")
    env = {**os.environ, **given, CGROUP: cgroup, machine.BEFORE: sysctls, "TMPDIR": folder}
    inside = subprocess.Popen([*NAMESPACES, "bash", "-c", INSIDE, ADDRESS, *command], env=env)
    try:
        return inside.wait()
    finally:
        inside.kill()
        inside.wait()
        wait_for(lambda: not machine.members(cgroup), what="the end of the node's containers", timeout=60)
        machine.remove_cgroup(cgroup)
        shutil.rmtree(folder, ignore_errors=True)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
