"""The command line: run, scan, explain, check, release.

Exit codes: 0 good; 1 something found (`scan`) or not all good (`check`); 2 a usage or configuration error, a Pod that
does not exist, a refused login; 3 incomplete, or another replica leads. Every error is one sentence on standard error.
"""

from __future__ import annotations

from healer.cli.commands import cli
from healer.cli.entry_point import complete, main, program

__all__ = ["cli", "complete", "main", "program"]
