"""`python -m tests.unit.recorded`: asks the lab's Airflow 2 servers, and writes what they answer."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import msgspec

from healer.airflow.api.dialect import Ask
from tests.lab.airflow2 import API, READ, Airflow2
from tests.lab.airflow_seed import Dag, Run, Task
from tests.unit.recorded import FOLDER, QUESTIONS, RUN, VERSIONS, Answer


def main() -> None:
    for version in VERSIONS:
        with Airflow2.start(version=version, components=API) as lab:
            _fill(lab)
            told = {name: _ask(lab.url, user, question) for name, (user, question) in QUESTIONS.items()}
            file = FOLDER / f"airflow-{version}.json"
            file.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")


def _fill(lab: Airflow2) -> None:
    tasks = [
        Task("run", "running", xcom="pod-run"),
        Task("later", "deferred", xcom="pod-later"),
        Task("failed", "failed", try_number=2, max_tries=3),
        Task("cleared", None),
        Task("skipped", "skipped", end_date=None),
        Task("m", "success", map_index=0, count=3, xcom="pod-{index}"),
    ]
    lab.seed([Dag("a", [Run(RUN, tasks)]), Dag("b", [Run(RUN, [Task("t", "failed")])])])
    lab.act("a", RUN, "later", "defer")
    lab.add_user("only-a", [("can_read", "DAG:a"), *READ[1:]])


def _ask(url: str, user: str, question: Ask[object]) -> Answer:
    request = question.request
    path = request.path.format(**{key: quote(str(value), safe="") for key, value in request.ids.items()})
    answer = httpx.request(
        request.method,
        url + path,
        params=dict(request.query),
        json=request.body,
        auth=(user, user) if user else None,
        trust_env=False,
        timeout=60,
    )
    return Answer(answer.status_code, answer.headers["content-type"], answer.text)


if __name__ == "__main__":
    main()
