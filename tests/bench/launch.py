"""`launch.py FILE OUT COMMAND …`: runs a command as its only child, writes what it used to FILE and its output to OUT.

A small process does this, because a child's peak memory begins with what its parent holds when it forks.
"""

import json
import os
import subprocess
import sys
import time

file, out, *command = sys.argv[1:]
begin = time.perf_counter()
with open(out, "wb") as stdout:  # noqa: PTH123 - without pathlib this process stays small
    child = subprocess.Popen(command, stdout=stdout)
_, status, used = os.wait4(child.pid, 0)
wall = time.perf_counter() - begin
with open(file, "w") as report:  # noqa: PTH123
    said = {"code": os.waitstatus_to_exitcode(status), "wall": wall, "rss": used.ru_maxrss * 1024}
    json.dump({**said, "cpu": used.ru_utime + used.ru_stime}, report)
