"""What runs in place of a container: `python -m tests.deploy.inside ROOT kpo-healer …`.

The program itself, with the two things that only a container engine could give it: the ServiceAccount's files are found
below ROOT instead of below `/`, and the file system is read-only.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}


def main() -> None:
    root, program, *arguments = sys.argv[1:]
    sys.addaudithook(refuse_writes)
    mount_account(Path(root))
    assert program == "kpo-healer", program
    sys.argv = [program, *arguments]
    from healer.cli import main as healer

    healer()


def refuse_writes(event: str, arguments: tuple[object, ...]) -> None:
    """As readOnlyRootFilesystem does. Devices can be written to, and what is open already."""
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or not isinstance(flags, int) or not flags & WRITING:
            return
        if not os.fsdecode(str(path)).startswith(("/dev/", "/proc/self/")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
    elif event in CHANGES:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))


def mount_account(root: Path) -> None:
    from kubernetes.config import incluster_config

    from healer.cluster import connection

    place = root / connection.ACCOUNT.relative_to("/")
    connection.ACCOUNT = place
    incluster_config.SERVICE_TOKEN_FILENAME = str(place / "token")
    incluster_config.SERVICE_CERT_FILENAME = str(place / "ca.crt")


if __name__ == "__main__":
    main()
