"""Patterns of namespaces: what they stand for, whose that is, and what a configuration may not say of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from healer.config import Config, covers, matches, warnings
from healer.config.namespaces import RESERVED


@pytest.mark.parametrize(
    ("pattern", "found", "others"),
    [
        ("team-*", ["team-a", "team-", "team-a-b", "team-kube-x"], ["team", "ateam-a", "teams-a", "x-team-a"]),
        ("*-jobs", ["a-jobs", "-jobs", "a-jobs-jobs"], ["jobs", "a-jobsx", "a-jobs-x"]),
        ("a*b*c", ["abc", "axbxc", "abbcc"], ["ab", "acb", "xabc", "abcx"]),
        ("*x*", ["x", "axb", "xx"], ["", "ab"]),
        ("ab*ba", ["abba", "abxba"], ["aba", "ab", "ba"]),
        ("a**b", ["ab", "axb"], ["a", "b"]),
        ("*", ["a", "default", "kube", "kubeflow", "openshift"], ["kube-system", "kube-public", "openshift-etcd"]),
        ("*-system", ["a-system"], ["kube-system"]),
        ("k*", ["kubeflow"], ["kube-system"]),
        ("kube-*", ["kube-system", "kube-x"], ["kubeflow", "openshift-etcd"]),
        ("openshift-*", ["openshift-airflow"], ["openshift", "kube-system"]),
    ],
)
def test_what_a_pattern_stands_for(pattern: str, found: list[str], others: list[str]) -> None:
    assert [name for name in (*found, *others) if matches(pattern, name)] == found


def test_an_exact_name_is_no_pattern_and_may_be_a_reserved_one() -> None:
    assert covers(["jobs"], "jobs")
    assert not covers(["jobs"], "jobs-2")
    assert covers(["kube-system"], "kube-system")
    assert covers(["jobs", "team-*"], "team-a")
    assert not covers([], "jobs")


LETTERS = st.text("ab-", max_size=6)


@given(st.text("ab-*", min_size=1, max_size=8), LETTERS)
def test_a_star_is_any_characters_and_nothing_else_is_special(pattern: str, name: str) -> None:
    if "*" in pattern:
        expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
        assert matches(pattern, name) is expected


@given(st.text("ab*", min_size=1, max_size=5), st.text("ab*", min_size=1, max_size=5), LETTERS)
def test_what_covers_a_pattern_covers_all_that_it_stands_for(wide: str, narrow: str, name: str) -> None:
    if covers([wide], narrow) and covers([narrow], name):
        assert covers([wide], name)


@given(st.text("ks*-ube", min_size=1, max_size=8), st.sampled_from(RESERVED), LETTERS)
def test_a_reserved_name_wants_a_pattern_that_begins_like_it(pattern: str, reserved: str, rest: str) -> None:
    if "*" in pattern and not pattern.startswith(reserved):
        assert not matches(pattern, reserved + rest)


def config(*airflows: tuple[list[str], Any], **more: Any) -> Config:
    """One Airflow for each pair of namespaces and ownership, called a, b, c."""
    entries = [
        {"name": name, "namespaces": places, "ownership": ownership, "url": "http://x", "token": "t", **more}
        for name, (places, ownership) in zip("abc", airflows, strict=False)
    ]
    return Config.model_validate({"airflows": entries})


OURS = {"label": "acme.io/airflow", "value": "prod"}


@pytest.mark.parametrize(
    ("airflows", "namespace", "whose"),
    [
        ([(["team-*"], "exclusive")], "team-a", "a"),
        ([(["team-*"], "exclusive")], "jobs", ""),
        ([(["*"], "exclusive")], "kube-system", ""),
        ([(["team-*"], "exclusive"), (["team-a"], "exclusive")], "team-a", "b"),
        ([(["team-*"], "exclusive"), (["team-a"], "exclusive")], "team-b", "a"),
        ([(["team-*"], "exclusive"), (["team-a"], "stamped")], "team-a", "b"),
        ([(["team-*"], "stamped"), (["team-a"], "stamped")], "team-a", "ab"),
        ([(["team-*"], "stamped"), (["*-a"], OURS)], "team-a", "ab"),
        ([(["team-*", "team-a"], "exclusive")], "team-a", "a"),
    ],
)
def test_whose_a_namespace_is(airflows: list[Any], namespace: str, whose: str) -> None:
    claim = config(*airflows).claim(namespace)
    assert "".join(a.name for a in claim.airflows) == whose
    assert claim.problem is None


@pytest.mark.parametrize(
    ("airflows", "sentence"),
    [
        (
            [(["team-*"], "exclusive"), (["*-prod"], "exclusive")],
            "namespace team-x-prod is claimed by a and b: give it to one of them, or set ownership: stamped or a label",
        ),
        ([(["team-*"], "stamped"), (["*-prod"], None)], "namespace team-x-prod is claimed by a and b"),
        ([(["team-*"], OURS), (["*-prod"], OURS)], "acme.io/airflow=prod in namespace team-x-prod is claimed twice"),
    ],
)
def test_a_namespace_that_patterns_of_two_claim_is_nobody_s(airflows: list[Any], sentence: str) -> None:
    made = config(*airflows)
    claim = made.claim("team-x-prod")
    assert claim.airflows == ()
    assert claim.problem is not None
    assert claim.problem.startswith(sentence)
    assert [a.name for a in made.claim("team-x").airflows] == ["a"]


@pytest.mark.parametrize(
    ("airflows", "sentence"),
    [
        ([(["team-*"], "exclusive"), (["team-*"], "exclusive")], "namespace team-* is claimed by a and b"),
        ([(["*"], "exclusive"), (["team-*"], "stamped")], "namespace team-* is claimed by a and b"),
        ([(["team-*"], OURS), (["team-a-*"], OURS)], "in namespace team-a-* is claimed twice"),
    ],
)
def test_what_is_claimed_twice_for_certain_is_refused_at_once(airflows: list[Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(sentence)):
        config(*airflows)


@pytest.mark.parametrize("wrong", ["team_*", "Team-*", "team-?", "-*", "[ab]", "!team-a", "a,b", "*.x", "", "a" * 64])
def test_what_is_no_pattern(wrong: str) -> None:
    with pytest.raises(ValidationError, match="is not a namespace's name, nor a pattern as team-\\*"):
        config(([wrong], "exclusive"))


def test_the_lease_wants_an_exact_name() -> None:
    with pytest.raises(ValidationError, match="write it exactly, without wildcards"):
        Config.model_validate({"leaderElection": {"namespace": "team-*"}, "airflows": []})


def test_to_claim_a_whole_cluster_is_unwise() -> None:
    def said(*places: str, ownership: str = "exclusive") -> bool:
        return any("Pod of the cluster counts" in text for text in warnings(config(([*places], ownership))))

    assert said("*")
    assert said("jobs", "**")
    assert not said("team-*")
    assert not said("*", ownership="stamped")


def test_names_and_patterns_are_told_apart() -> None:
    made = config((["jobs", "team-*"], "stamped"), (["*-x", "jobs"], "stamped"))
    assert made.namespaces == ["jobs", "team-*", "*-x"]
    assert made.patterns == ["team-*", "*-x"]
