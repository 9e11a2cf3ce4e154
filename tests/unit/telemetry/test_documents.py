"""Findings in JSON: written once, and always what the finding says now."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from healer.leader_election import AlwaysLeader
from healer.model import Known, RunDeleted
from healer.telemetry.documents import Documents
from healer.telemetry.findings import FindingView
from healer.telemetry.findings_endpoint import UNASKED, FindingsEndpoint
from healer.telemetry.http_server import HttpRequest
from tests.unit.fakes import NOT_KNOWN, ORPHANED, RUNNING, World
from tests.unit.strategies import DAG_ID, NO_SOURCE, RUN_ID, ended

ANSWERS = [
    ORPHANED,
    RUNNING,
    NOT_KNOWN,
    RunDeleted(0.0, DAG_ID, RUN_ID),
    Known(0.0, ended("success", end_date=None), NO_SOURCE),
    Known(0.0, ended("failed", try_number=2, end_date=None), NO_SOURCE),
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The uid of each finding that was made into JSON, in order."""
    uids: list[str] = []
    real = FindingView.to_dict
    monkeypatch.setattr(FindingView, "to_dict", lambda view: uids.append(view.pod.uid) or real(view))
    return uids


def crowd(size: int = 5) -> World:
    world = World(policy={"minAge": "0s", "grace": "1h"}, limits={"breaker": {"maxShare": 1.0}})
    for number in range(size):
        world.pod(f"pod{number}", ORPHANED)
    world.audit()
    return world


def views(world: World) -> list[FindingView]:
    return list(world.reconciler.snapshot().findings())


def written(documents: Documents, world: World, picture: object) -> Any:
    return msgspec.json.decode(documents.write(views(world), picture))


def test_each_is_what_the_finding_says_whatever_changes_from_pass_to_pass() -> None:
    dice, documents, world = random.Random(11), Documents(), crowd(8)
    for picture in range(60):
        for uid in dice.sample(list(world.airflow.answers), 3):
            world.airflow.answers[uid] = dice.choice(ANSWERS)
        if dice.random() < 0.3:
            world.pod(f"new{picture}", dice.choice(ANSWERS), phase=dice.choice(["Running", "Succeeded", "Pending"]))
        if dice.random() < 0.3:
            world.cluster.pods.pop(dice.choice(list(world.cluster.pods)))
        world.wait(dice.choice([0.0, 0.4, 7.3, 600.0]))
        world.audit()
        assert written(documents, world, picture) == [view.to_dict() for view in views(world)]


def test_what_has_not_changed_is_not_written_again_though_its_times_are_told_anew(made: list[str]) -> None:
    documents, world = Documents(), crowd()
    before = written(documents, world, 1)
    made.clear()
    world.wait(30.0)
    shifted = [replace(view, since=(view.since or 0) + 1, due=(view.due or 0) + 1) for view in views(world)]
    after = msgspec.json.decode(documents.write(shifted, 2))
    assert made == []
    assert [finding["due"] for finding in after] != [finding["due"] for finding in before]
    assert after == [view.to_dict() for view in shifted]
    made.clear()
    world.airflow.answers["pod3"] = RUNNING
    world.audit()
    written(documents, world, 3)
    assert made == ["pod3"]


def test_what_the_picture_lacks_is_forgotten(made: list[str]) -> None:
    documents, world = Documents(), crowd()
    all_of_them = views(world)
    for picture, shown in enumerate((all_of_them, all_of_them[:2], all_of_them[:2], all_of_them)):
        made.clear()
        documents.write(shown, picture)
    assert sorted(made) == ["pod2", "pod3", "pod4"]


def test_a_narrow_question_forgets_nothing_of_the_same_picture(made: list[str]) -> None:
    documents, world = Documents(), crowd()
    documents.write(views(world), 1)
    made.clear()
    documents.write([], 2)
    documents.write(views(world)[:1], 2)
    documents.write(views(world), 2)
    assert made == []


def test_no_text_is_taken_for_the_times() -> None:
    text = '"since":null,"due":null \\"since\\":null,\\"due\\":null'
    world = crowd(1)
    (view,) = views(world)
    evil = replace(view, finding=replace(view.finding, detail=text), pod=replace(view.pod, namespace=text))
    assert msgspec.json.decode(Documents().write([evil], 1)) == [evil.to_dict()]
    assert Documents().write([], 1) == b"[]"


def test_pods_of_two_airflows_are_kept_apart(made: list[str]) -> None:
    (view,) = views(crowd(1))
    twins, documents = [view, replace(view, airflow="other")], Documents()
    documents.write(twins, 1)
    made.clear()
    assert msgspec.json.decode(documents.write(twins, 2)) == [twin.to_dict() for twin in twins]
    assert len(made) == 2, "by this test itself"


def test_nothing_is_kept_for_a_reader_who_stays_away(made: list[str]) -> None:
    now, world = [1000.0], crowd()
    endpoint = FindingsEndpoint(AlwaysLeader(), wall=lambda: now[0])

    def ask() -> int:
        made.clear()
        endpoint.publish([world.reconciler.snapshot()], {}, now[0])
        assert endpoint.findings(HttpRequest()).status == 200
        return len(made)

    assert ask() == 5
    now[0] += UNASKED - 1
    assert ask() == 0
    now[0] += UNASKED + 1
    assert ask() == 5
