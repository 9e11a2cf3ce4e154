"""Who has refused: Airflow itself, a gate or proxy in front of it, or something that is no Airflow at all.

Airflow says why it refuses in JSON, as `{"detail": …}`; gates answer with pages, other JSON, redirects and headers of
their own. The difference decides whether to log in again, and what the user is told to do.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from urllib.parse import urlsplit

from healer.airflow.api import schema
from healer.airflow.api.transport import RawResponse
from healer.errors import FailureScope, NoAnswerError

PROBLEM_JSON = "application/problem+json"
"""The content type of each refusal of Airflow 2's API."""

BEHIND = "let the healer through there, or give the address behind it (in the cluster: the API server's Service)"
"""What to do about a gate."""

_LOGIN_WORDS = re.compile(r"log-?in|sign-?in|auth|sso|saml|oidc|cdn-cgi/access", re.IGNORECASE)
_LOGIN_PAGE = re.compile(rb"""type=["']?password|<form[^>]*(log|sign)-?_?in|(log|sign) ?in\b""", re.IGNORECASE)
_AIRFLOW_PAGE = re.compile(rb"<title>\s*Airflow\s*</title>", re.IGNORECASE)
_TLS_WANTED = re.compile(rb"http request (was sent )?to (an )?https", re.IGNORECASE)


def is_gates(raw: RawResponse) -> bool:
    """Whether a 401, 403 or 405 comes from something in front of Airflow: it lacks what Airflow always says."""
    if "x-goog-iap-generated-response" in raw.headers:
        return True
    if raw.type.partition(";")[0].strip().lower() == PROBLEM_JSON and b'"title"' in raw.body:
        return False  # Airflow 2, which says with its own 401 that it also takes basic auth
    challenge = raw.headers.get("www-authenticate", "").partition(" ")[0].lower()
    return not (raw.json and schema.detail(raw.body)) or challenge not in ("", "bearer")


def gate(url: str, raw: RawResponse) -> NoAnswerError:
    """Return the failure that names whoever stands in front of Airflow and refuses."""
    wants = " It wants a login of its own (WWW-Authenticate)." if "www-authenticate" in raw.headers else ""
    why = f"{_in_front(raw)} in front of {url} refuses with {_status(raw.status)}, Airflow was not reached: {BEHIND}"
    # A firewall may refuse this one question for what is in it; a login that is missing concerns all of them.
    reach = FailureScope.SERVER if raw.status == HTTPStatus.UNAUTHORIZED else FailureScope.CALL
    return NoAnswerError(f"{why}.{wants}" if wants else why, reach, str(raw.status), "gate")


def redirected(url: str, raw: RawResponse) -> NoAnswerError:
    """Return the failure for a redirect: to a gate's login, to https, or to where Airflow has moved."""
    target = _target(raw.location)
    if _LOGIN_WORDS.search(target):
        why = f"{url} answers {raw.status}, redirected to a login page ({target}): a gate in front of Airflow; {BEHIND}"
        return NoAnswerError(why, FailureScope.SERVER, str(raw.status), "gate")
    if url.startswith("http:") and target == target.replace("http:", "https:", 1) and _host(target) == _host(url):
        why = f"{url} answers {raw.status}, redirected to https: write the URL with https:"
    else:
        why = f"{url} answers {raw.status}, redirected ({target or 'to another place'}): give that address as url"
    return NoAnswerError(why, FailureScope.SERVER, str(raw.status), "path")


def page(url: str, raw: RawResponse) -> NoAnswerError:
    """Return the failure for an answer that is a web page where JSON was due."""
    start = raw.body[:8192]
    said = f"{url} answered with a page that is not JSON"
    if _AIRFLOW_PAGE.search(start):
        why = f"{said}, but Airflow's own web page: give the URL under which that page is found, without what follows"
        return NoAnswerError(why, FailureScope.SERVER, kind="path")
    if _LOGIN_PAGE.search(start):
        why = f"{said}, but a login page of something in front: give the address of Airflow's API server; {BEHIND}"
        return NoAnswerError(why, FailureScope.SERVER, kind="gate")
    why = (
        f"{said}: give the address of Airflow's API server, as in a browser but without /api/v2 or a proxy's login, "
        "and with the path under which Airflow is published, if there is one"
    )
    return NoAnswerError(why, FailureScope.SERVER, kind="path")


def kept(url: str, raw: RawResponse) -> NoAnswerError:
    """Return the failure for an answer out of a cache: what it says was true then, and need not be any more."""
    why = f"{_in_front(raw)} in front of {url} gives answers that it has kept for {raw.age:g} s: let it keep nothing"
    return NoAnswerError(f"{why} of Airflow's API, or {BEHIND}", kind="gate")


def wants_tls(url: str, raw: RawResponse) -> NoAnswerError | None:
    """Return the failure where a server of https was spoken to in plain http, None for anything else."""
    if raw.status != HTTPStatus.BAD_REQUEST or not url.startswith("http:") or not _TLS_WANTED.search(raw.body[:4096]):
        return None
    return NoAnswerError(f"{url} speaks https: write the URL with https:", FailureScope.SERVER, "400", "tls")


def proxy_failed(url: str, raw: RawResponse) -> str:
    """Return what a 502, 503 or 504 means that Airflow itself never gives: a proxy does not get through to it."""
    return f"{_in_front(raw)} in front of {url} answered {_status(raw.status)}: does the API server behind it run?"


def no_api(url: str, code: str = "404") -> NoAnswerError:
    """Return the failure for a URL below which there is no API of Airflow."""
    why = (
        f"{url} has no API of Airflow: give the address of its API server (Airflow 2: its webserver), as in a browser "
        "but without /api/v2, and with the path under which Airflow is published, if there is one"
    )
    return NoAnswerError(why, FailureScope.SERVER, code, "path")


def _in_front(raw: RawResponse) -> str:
    """Name who has answered, as far as the headers tell."""
    if "x-goog-iap-generated-response" in raw.headers:
        return "Google's Identity-Aware Proxy"
    server = raw.headers.get("server", "")
    if "cf-ray" in raw.headers or "cloudflare" in server.lower():
        return "Cloudflare"
    name = re.sub(r"[^A-Za-z0-9 ._/-]", "", server)[:30].strip()
    return f"a gate or proxy ({name})" if name and name.lower() != "uvicorn" else "a gate or proxy"


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _target(location: str) -> str:
    """Return where a redirect leads, without user, query and fragment: these may hold secrets."""
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    return (f"{parts.scheme}://{host}" if parts.scheme and host else "") + parts.path[:100]


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
