"""What mkdocs does to a page beside rendering it: links to the repository, and what a copy button copies."""

from __future__ import annotations

import html as markup
import logging
import re
from pathlib import Path
from typing import Any

_log = logging.getLogger("mkdocs.hooks.links")

_UPWARDS = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#]*)(#[^)]*)?\)")
"""A link that may lead out of the pages, to a file of the repository: that works there, and not on a site."""

_CONSOLE = re.compile(r'<div class="language-console highlight">(<pre.*?</pre>)', re.DOTALL)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links to files of the repository lead there, or be plain text where it has no address; warn of dead ones."""
    pages = Path(config.docs_dir).resolve()
    root = pages.parent

    def shown(found: re.Match[str]) -> str:
        target = (pages / page.file.src_path).parent.joinpath(found[2]).resolve()
        if target.is_relative_to(pages):
            return found[0]
        if not target.exists():
            _log.warning("%s links %s, which does not exist", page.file.src_path, found[2])
        if not config.repo_url:
            return found[1]
        kind = "tree" if target.is_dir() else "blob"
        return f"[{found[1]}]({config.repo_url.rstrip('/')}/{kind}/main/{target.relative_to(root)}{found[3] or ''})"

    return _UPWARDS.sub(shown, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Let the button of a fence of the kind `console` copy its commands, without prompts and answers."""
    return _CONSOLE.sub(_copied, html)


def _copied(found: re.Match[str]) -> str:
    commands = markup.escape("\n".join(_commands(markup.unescape(re.sub(r"<[^>]+>", "", found[1])))), quote=True)
    return f'<div class="language-console highlight" data-copy="{commands}">{found[1]}'


def _commands(text: str) -> list[str]:
    """Return the lines behind `$ `, each with those by which it goes on."""
    lines, goes_on = [], False
    for line in text.splitlines():
        if goes_on or line.lstrip().startswith("$ "):
            lines.append(line if goes_on else line.lstrip().removeprefix("$ "))
            goes_on = line.endswith("\\")
    return lines
