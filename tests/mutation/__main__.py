"""`python -m tests.mutation`: exit code 1 if a mutant lives that is not explained in equivalent.toml."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants, unchanged
from tests.mutation.trying import FIRST, THEN, survivors

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
    parser.add_argument("modules", nargs="*", default=list(FIRST))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if len(options.modules) == 1:
        return 1 if try_module(options.modules[0], explanations(), options.processes) else 0
    # Each in a process of its own: what one needs unchanged, another changes.
    again = [sys.executable, "-m", "tests.mutation", "--processes", str(options.processes)]
    codes = [subprocess.run([*again, module], check=False).returncode for module in options.modules]
    return max(codes)


def try_module(module: str, known: dict[tuple[str, str, str], str], processes: int) -> int:
    """Try the mutants of one module; return how many live unexplained."""
    started = time.monotonic()
    both = {name: (*FIRST[name], *THEN[name]) for name in FIRST}
    if not list(survivors([unchanged(module)], both, 1)):
        raise SystemExit(f"the tests of {module} fail without any mutant: set them right first")
    found: Sequence[Mutant] = list(mutants(module))
    tough = list(survivors(found, FIRST, processes))
    print(
        f"# {module}: {len(found)} mutants, {len(tough)} survive the first tests; {time.monotonic() - started:.0f} s",
        flush=True,
    )
    living, unexplained = 0, []
    for mutant in survivors(tough, THEN, processes):
        living += 1
        if mutant.key not in known:
            unexplained.append(mutant)
            print(tell(mutant), flush=True)
    killed, equivalent = len(found) - living, living - len(unexplained)
    print(f"{module}: {len(found)} mutants, {killed} killed, {equivalent} equivalent, {len(unexplained)} not explained")
    print(f"# {time.monotonic() - started:.0f} s", flush=True)
    return len(unexplained)


if __name__ == "__main__":
    sys.exit(main())
