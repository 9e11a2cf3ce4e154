"""Where kopf's watch begins: where our own LIST ended, each of them once; else at this moment, and we list anew."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from yarl import URL

from healer.informer.resume import ResumeMiddleware

PODS = URL("https://api/api/v1/namespaces/a/pods")
LIST = PODS.with_query(labelSelector="x=1,!y", limit="500")


@dataclass
class Response:
    status: int
    body: bytes

    async def read(self) -> bytes:
        return self.body


@dataclass
class Request:
    url: URL


@dataclass
class World:
    """An API server whose lists end at `its`, and our own LISTs, by namespace."""

    its: str = "90"
    status: int = 200
    ours: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: list[URL] = field(default_factory=list)
    body: bytes | None = None

    def __post_init__(self) -> None:
        self.resume = ResumeMiddleware(self.ours.get, self.asked.append)

    def get(self, url: URL) -> URL:
        """Send what kopf would, and return what is really sent."""

        async def handler(request: Request) -> Response:
            self.sent.append(request.url)
            body = b'{"kind": "PodList", "metadata": {"resourceVersion": "%s"}, "items": []}' % self.its.encode()
            return Response(self.status, body if self.body is None else self.body)

        asyncio.run(self.resume(Request(url), handler))
        return self.sent[-1]

    def since(self, version: str, url: URL = PODS) -> str:
        """From where on is really watched when kopf wants to watch from `version` on."""
        return self.get(url.with_query(watch="true", resourceVersion=version)).query["resourceVersion"]


def test_kopf_lists_nobody() -> None:
    sent = World().get(LIST)
    assert sent.query["fieldSelector"].startswith("metadata.name=")
    assert (sent.query["labelSelector"], sent.query["limit"]) == ("x=1,!y", "500")


def test_the_watch_begins_where_our_list_ended() -> None:
    world = World(ours={"a": "80"})
    world.get(LIST)
    assert world.since("90") == "80"
    assert world.since("90") == "80", "until it is past it: the first try may not have got through"
    assert world.asked == []


def test_a_watch_that_went_on_goes_on_from_there() -> None:
    world = World(ours={"a": "80"})
    world.get(LIST)
    assert world.since("95") == "95"


def test_without_a_list_of_ours_one_is_asked_for() -> None:
    world = World()
    world.get(LIST)
    assert world.asked == ["a"]
    assert world.since("90") == "90"


def test_a_list_that_was_too_old_is_not_begun_at_again() -> None:
    world = World(ours={"a": "80"})
    world.get(LIST)
    world.its = "120"
    world.get(LIST)
    assert world.asked == ["a"]
    assert world.since("120") == "120"
    world.ours["a"] = "130"
    world.its = "200"
    world.get(LIST)
    assert (world.since("200"), world.asked) == ("130", ["a"])


def test_each_namespace_for_itself() -> None:
    world = World(ours={"a": "80"})
    other = URL("https://api/api/v1/namespaces/b/pods")
    world.get(LIST)
    world.get(other)
    assert world.asked == ["b"]
    assert (world.since("90"), world.since("90", other)) == ("80", "90")


@pytest.mark.parametrize(("status", "body"), [(403, b"no"), (500, b""), (200, b"<html>"), (200, b'{"metadata": {}}')])
def test_no_watch_begins_at_an_answer_that_is_none(status: int, body: bytes) -> None:
    world = World(ours={"a": "80"}, status=status, body=body)
    world.get(LIST)
    assert world.since("90") == "90"
    assert world.asked == (["a"] if status == 200 else [])


def test_other_questions_pass_as_they_are() -> None:
    url = URL("https://api/api/v1")
    assert World().get(url) == url
