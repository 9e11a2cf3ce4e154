"""Who stands by for a Lease of other Airflows says so: other names, other namespaces, or other URLs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest

from healer.cluster import Lease
from healer.config import AirflowConfig
from healer.leader_election import SERVES, served, unserved, url_hash

URL = "https://airflow.example.com/prod"


def airflow(url: str = URL, name: str = "prod", namespaces: Sequence[str] = ("jobs",)) -> AirflowConfig:
    return AirflowConfig.model_validate(
        {"name": name, "url": url, "namespaces": list(namespaces), "token": "t", "ownership": "exclusive"}
    )


def lease(told: str | None) -> Lease:
    return Lease(holder="other", annotations={} if told is None else {SERVES: told})


SAME = [
    (URL, URL + "/"),
    (URL, "https://AIRFLOW.Example.COM/prod"),
    (URL, "https://airflow.example.com:443/prod"),
    (URL, "https://airflow.example.com./prod"),
    (URL, "http://airflow.example.com/prod"),
    ("http://airflow", "http://airflow:80/"),
    ("http://airflow:8080", "http://airflow:8080//"),
    ("http://[::1]:80", "http://[::1]/"),
]
OTHER = [
    (URL, "https://airflow.example.com/stage"),
    (URL, "https://airflow.example.com/Prod"),
    (URL, "https://airflow.example.com"),
    (URL, "https://airflow-stage.example.com/prod"),
    (URL, "https://airflow.example.com:8443/prod"),
    ("http://airflow:8080", "http://airflow:8081"),
    ("http://airflow:443", "http://airflow"),
    ("https://airflow:80", "https://airflow"),
    ("http://airflow-api", "http://airflow-api.stage.svc"),
    ("http://[::1]", "http://[::2]"),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME)
def test_urls_of_one_airflow_are_served(ours: str, theirs: str) -> None:
    for one, other in ((ours, theirs), (theirs, ours)):
        assert unserved(served([airflow(one)]), lease(served([airflow(other)]))) == ()


@pytest.mark.parametrize(("ours", "theirs"), OTHER)
def test_urls_of_two_airflows_are_not(ours: str, theirs: str) -> None:
    for one, other in ((ours, theirs), (theirs, ours)):
        assert unserved(served([airflow(one)]), lease(served([airflow(other)]))) == ("prod",)


def test_a_login_in_the_url_makes_no_difference() -> None:
    """The configuration refuses one; the hash must not be a way to guess it all the same."""
    assert url_hash("https://me:secret@airflow.example.com/prod") == url_hash(URL)


def test_the_lease_tells_no_url() -> None:
    told = served([airflow("https://internal-host.example.com/some-path")])
    assert json.loads(told) == {"prod": ["jobs", f"url:{url_hash('https://internal-host.example.com/some-path')}"]}
    assert "internal-host" not in told
    assert "some-path" not in told


TOLD: Mapping[str, tuple[str | None, tuple[str, ...]]] = {
    "nothing, as the oldest ones": (None, ()),
    "no URL, as older ones": ('{"prod":["jobs"]}', ()),
    "no URL, and more namespaces": ('{"prod":["jobs","more"]}', ()),
    "no URL, and other namespaces": ('{"prod":["more"]}', ("prod",)),
    "no URL, and another name": ('{"stage":["jobs"]}', ("prod",)),
    "the URL of one that has another name": (f'{{"stage":["jobs","url:{url_hash(URL)}"]}}', ("prod",)),
    "the URL without the namespace": (f'{{"prod":["url:{url_hash(URL)}"]}}', ("prod",)),
    "no namespace at all": ('{"prod":[]}', ("prod",)),
    "what is not JSON": ("[", ()),
    "something of a later version": ('{"prod":{"namespaces":["jobs"]}}', ()),
}


@pytest.mark.parametrize(("told", "expected"), TOLD.values(), ids=TOLD.keys())
def test_what_a_lease_tells(told: str | None, expected: tuple[str, ...]) -> None:
    assert unserved(served([airflow()]), lease(told)) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "is_served"),
    [
        (["team-a", "jobs"], ["team-*", "jobs"], True),
        (["team-*"], ["team-*"], True),
        (["team-a-*"], ["team-*"], True),
        (["team-*"], ["team-a", "team-b"], False),
        (["team-*"], ["team-a-*"], False),
        (["kube-system"], ["*"], False),
        (["*"], ["*"], True),
    ],
)
def test_who_has_a_pattern_looks_after_what_it_stands_for(ours: list[str], theirs: list[str], is_served: bool) -> None:
    told = lease(served([airflow(namespaces=theirs)]))
    assert unserved(served([airflow(namespaces=ours)]), told) == (() if is_served else ("prod",))


def test_a_pattern_is_none_of_urls() -> None:
    told = lease(served([airflow("https://other.example.com", namespaces=["*"])]))
    assert unserved(served([airflow(namespaces=["*"])]), told) == ("prod",)


def test_each_airflow_is_held_against_its_own() -> None:
    ours = served([airflow(), airflow("https://b.example.com", "stage", ("stage",))])
    theirs = served([airflow(), airflow("https://c.example.com", "stage", ("stage",))])
    assert unserved(ours, lease(theirs)) == ("stage",)


def test_who_knew_no_urls_reads_what_is_told_now() -> None:
    """During an update one stands by that knows names and namespaces only."""
    told = json.loads(served([airflow()]))
    assert all(isinstance(each, str) for spaces in told.values() for each in spaces)
    assert {"jobs"} <= set(told["prod"])
