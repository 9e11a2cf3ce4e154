"""`python -m tests.mutation`: exit code 1 unless exactly those mutants live that equivalent.toml explains."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

from tests.mutation.forks import Fate
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.trying import TESTS, try_all

EXPLAINED = Path(__file__).with_name("equivalent.toml")


def explanations() -> dict[tuple[str, str, str], str]:
    """Return why each mutant that lives changes nothing."""
    if not EXPLAINED.exists():
        return {}
    listed = tomllib.loads(EXPLAINED.read_text())["mutant"]
    return {(each["module"], each["before"], each["after"]): each["why"] for each in listed}


def tell(mutant: Mutant) -> str:
    """Return a mutant as it is written in equivalent.toml."""
    lines = (f"module = {mutant.module!r}", f"before = '''{mutant.before}'''", f"after = '''{mutant.after}'''")
    return "\n".join(("[[mutant]]", *lines, "why = ''", f"# line {mutant.line}", ""))


def main() -> int:
    """Try all mutants of some modules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if len(options.modules) == 1:
        return 1 if try_module(options.modules[0], explanations(), options.processes) else 0
    # Each in a process of its own: what one needs unchanged, another changes.
    again = [sys.executable, "-m", "tests.mutation", "--processes", str(options.processes)]
    codes = [subprocess.run([*again, module], check=False).returncode for module in options.modules]
    return max(codes)


def try_module(module: str, known: dict[tuple[str, str, str], str], processes: int) -> int:
    """Try the mutants of one module; return how many live unexplained, or are explained and don't live."""
    started = time.monotonic()
    found = list(mutants(module))
    ends: Counter[Fate] = Counter()
    explained: set[tuple[str, str, str]] = set()
    unexplained = []

    def told(mutant: Mutant, fate: Fate) -> None:
        ends[fate] += 1
        if fate is Fate.HUNG:
            print(f"# hung, so killed: line {mutant.line}: {mutant.after}", flush=True)
        if fate is not Fate.LIVES:
            return
        if mutant.key in known and mutant.key not in explained:  # each stands for one mutant
            explained.add(mutant.key)
            return
        unexplained.append(mutant)
        print(tell(mutant), flush=True)

    try_all(module, found, processes, told)
    killed, equivalent = len(found) - ends[Fate.LIVES], ends[Fate.LIVES] - len(unexplained)
    print(f"{module}: {len(found)} mutants, {killed} killed, {equivalent} equivalent, {len(unexplained)} not explained")
    stale = [key for key in known if key[0] == module and key not in explained]
    for _, before, after in stale:
        print(f"# explained, and does not live: {before} -> {after}")
    print(f"# {time.monotonic() - started:.0f} s", flush=True)
    return len(unexplained) + len(stale)


if __name__ == "__main__":
    sys.exit(main())
