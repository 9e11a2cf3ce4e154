"""What mkdocs does to a page before it renders it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

_log = logging.getLogger("mkdocs.hooks.links")

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]*)(?:#[^)]*)?\)")
"""A link to a file of the repository, which works where the pages are read there, and not on a site."""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Show links to files of the repository as plain text; warn of those that lead nowhere."""
    root = Path(config.config_file_path).parent

    def shown(found: re.Match[str]) -> str:
        if not (root / found[2]).exists():
            _log.warning("%s links %s, which does not exist", page.file.src_path, found[2])
        return found[1]

    return _OUTSIDE.sub(shown, markdown)
