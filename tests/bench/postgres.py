"""A PostgreSQL server of the bench's own, in a temporary folder.

PostgreSQL refuses to run as root; where we are root it runs as an unprivileged user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.bench import tools
from tests.lab.processes import LabError, Process, free_ports, new_folder, remove_folder

USER: Final = "airflow"
_DROP: Final = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[2]))
os.environ["HOME"] = sys.argv[3]
os.chdir(sys.argv[3])
os.execv(sys.argv[4], sys.argv[4:])
"""


class Postgres:
    """A running server. dsn: what SQLAlchemy wants. process: of the postmaster, whose session holds all the others."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder = folder
        self._programs = _reachable(programs, folder) if os.geteuid() == 0 else programs
        (self.port,) = free_ports(1)
        self.dsn = f"postgresql+psycopg2://{USER}@127.0.0.1:{self.port}/postgres"
        flags = ("-p", str(self.port), "-h", "127.0.0.1", "-k", str(folder), "-F")
        settings = ("shared_buffers=512MB", "max_connections=150", "max_wal_size=4GB")
        options = [word for setting in settings for word in ("-c", setting)]
        args = self._command("postgres", "-D", str(folder / "data"), *flags, *options)
        self.process = Process("postgres", args, folder / "log", ready=lambda: self.sql("select 1"))

    @classmethod
    @contextlib.contextmanager
    def start(cls) -> Iterator[Postgres]:
        """Makes a database cluster and runs it until the block ends. LabError with a log when it does not come up."""
        folder = new_folder("kpo-healer-postgres-")
        server = cls(folder, tools.postgres())
        try:
            server._initialise()
            server.process.start()
            yield server
        finally:
            server.process.stop(timeout=10)
            remove_folder(folder)

    def _initialise(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self._folder, *_nobody())
        options = ("-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C", "-N")
        command = self._command("initdb", "-D", str(self._folder / "data"), *options)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"initdb failed: {done.stderr[-2000:]}")

    def sql(self, statement: str) -> list[list[str]]:
        """Runs one statement; the rows as texts. OSError while the server is not up, LabError when it refuses."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", "postgres"]
        command: Sequence[str | Path] = [self._programs / "psql", *where, "-X", "-At", "-F", "\t", "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 2:
            raise ConnectionError(done.stderr)
        if done.returncode:
            raise LabError(f"{statement}: {done.stderr[-1000:]}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def version(self) -> str:
        return self.sql("show server_version")[0][0]

    def _command(self, program: str, *args: str) -> list[str]:
        command = [str(self._programs / program), *args]
        if os.geteuid() != 0:
            return command
        user, group = _nobody()
        return [sys.executable, "-I", "-c", _DROP, str(group), str(user), str(self._folder), *command]


def _nobody() -> tuple[int, int]:
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _reachable(programs: Path, folder: Path) -> Path:
    """The programs where an unprivileged user may read them: a cache in root's home he may not enter."""
    if programs.parts[:2] == ("/", "usr"):
        return programs
    root = folder / "install"
    shutil.copytree(programs.parent, root, symlinks=True)
    folder.chmod(0o755)
    return root / programs.name
