"""What must not be read by others is taken out of texts: a last net under messages that take care themselves.

Texts of libraries and servers end up in ours, and these may quote a header, a proxy's URL or a whole question.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_SECRETS = (
    (re.compile(r"""(//)[^\s"'\\<>]*@"""), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(bearer|basic|negotiate)[ :]+[A-Za-z0-9._~+/=-]{4,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){0,2}"), HIDDEN),
    (
        re.compile(
            r"""([?&;][^=&\s"']*(?:token|password|secret|key|code|sig)[^=&\s"']*=)[^&\s"'\\]+""",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)


def scrubbed(text: str) -> str:
    """Return the text without logins in URLs, Authorization headers, JSON Web Tokens and secrets in query strings."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def shown(path: object) -> str:
    """Return a path as a message may name it: what does not look like one may be the secret itself."""
    text = str(path)
    looks = re.match(r"(/|\./|\.\./|~)", text) or re.search(r"\.(ya?ml|json|pem|crt|conf|config|log|txt)$", text)
    return text if looks and scrubbed(text) == text else "the file that is named"


def first_line(problem: object) -> str:
    """Return the first line of what a library says, scrubbed."""
    return scrubbed(str(problem).strip().partition("\n")[0])
