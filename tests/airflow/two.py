"""Questions of the second dialect over plain HTTP, for tests against a real Airflow 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from msgspec import Struct

from healer.airflow.api import dialect2, dialect3
from healer.airflow.api.credential import Credential
from healer.airflow.api.dialect import Ask
from healer.airflow.api.login2 import Seen
from healer.airflow.api.reply import Problem

T = TypeVar("T")


class Told(Struct, frozen=True):
    """What came of a question. `value` of a 200, `none` if Airflow says that there is no such thing."""

    status: int
    value: Any = None
    none: bool = False
    problem: Problem = Problem()


def ask(url: str, question: Ask[Any], credential: Credential | None) -> Told:
    """Asks once."""
    request = question.request
    path = request.path.format(**{key: quote(str(value), safe="") for key, value in request.ids.items()})
    headers = {credential.header: credential.value} if credential else {}
    with httpx.Client(base_url=url, trust_env=False, timeout=120, verify=False) as client:  # no TLS: nothing to set up
        answer = client.request(request.method, path, params=dict(request.query), json=request.body, headers=headers)
    if answer.status_code in (200, 201):
        return Told(answer.status_code, question.decode(answer.content))
    dialect = dialect3 if request.path.startswith("/api/v2") else dialect2
    said = dialect.problem(answer.content, answer.headers.get("content-type", ""))
    return Told(answer.status_code, None, question.missing(answer.status_code, said), said)


class Pages:
    """Airflow's pages as a browser sees them; counts what it has asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []

    def get(self, path: str) -> Seen:
        """A page."""
        self.asked.append(f"GET {path}")
        return _seen(httpx.get(self.url + path, trust_env=False, timeout=60, verify=False))

    def post(self, path: str, form: Mapping[str, str], cookies: Mapping[str, str]) -> Seen:
        """What a form leads to."""
        self.asked.append(f"POST {path}")
        header = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        return _seen(
            httpx.post(self.url + path, data=dict(form), headers=header, trust_env=False, timeout=60, verify=False)
        )


def _seen(answer: httpx.Response) -> Seen:
    return Seen(answer.status_code, answer.text, answer.headers.get("location", ""), dict(answer.cookies))
