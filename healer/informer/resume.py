"""Where kopf's watch begins: at the very resourceVersion at which our own LIST of the namespace was complete.

kopf lists before it watches, and decodes every Pod to dictionaries: seconds of CPU for what our LIST has just brought.
There is no setting against it. So its list is made to find nothing, by a field selector that the API server answers
without a look at any Pod; and its watch, which would begin where that list ended, begins where ours did. Nothing is
missed in between: whatever changed since our LIST comes as an event.

Where our LIST is too old for that (410), kopf lists again. Then its watch begins at this moment, and we are asked for a
LIST of our own that begins later: what happened in between is in there.
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

MATCHES_NOTHING = "metadata.name=kpo-healer.lists.itself"
"""Finds no Pod: the server looks up this one name."""

HTTP_OK = 200


class _ListMetadata(Struct):
    version: str = msgspec.field(name="resourceVersion", default="")


class _ListResponse(Struct):
    metadata: _ListMetadata


_LIST_RESPONSE = msgspec.json.Decoder(_ListResponse)


class ResumeMiddleware:
    """A middleware of kopf's HTTP session. Used in kopf's loop only."""

    def __init__(self, listed_at: Callable[[str], str | None], ask_for_list: Callable[[str], None]) -> None:
        """Take what knows the resourceVersion of our last LIST of a namespace, and what asks for another LIST."""
        self._listed_at, self._ask_for_list = listed_at, ask_for_list
        self._begins: dict[str, tuple[str, str]] = {}
        self._tried: dict[str, str] = {}

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send kopf's request, another way where it is a list or the first watch after one."""
        verb = verb_of(request.url)
        if verb == "watch":
            request.url = self._from_our_list(request.url)
        if verb != "list":
            return await handler(request)
        request.url = request.url.update_query(fieldSelector=MATCHES_NOTHING)
        response = await handler(request)
        if response.status == HTTP_OK:
            self._listed(namespace_of(request.url), await response.read())
        return response

    def forget(self, namespace: str) -> None:
        """Forget where the watch of a namespace began."""
        self._begins.pop(namespace, None)
        self._tried.pop(namespace, None)

    def _listed(self, namespace: str, body: bytes) -> None:
        """Decide where the watch begins. A LIST of ours that it began at before was too old for it."""
        ours, its = self._listed_at(namespace), _version(body)
        if ours is None or its is None or self._tried.get(namespace) == ours:
            self._begins.pop(namespace, None)
            self._ask_for_list(namespace)
        else:
            self._begins[namespace] = its, ours
            self._tried[namespace] = ours

    def _from_our_list(self, url: URL) -> URL:
        its, ours = self._begins.get(namespace_of(url), (None, None))
        if ours is None or url.query.get("resourceVersion") != its:
            return url
        return url.update_query(resourceVersion=ours)


def verb_of(url: URL) -> str:
    """Return RBAC's word for a GET of kopf's."""
    if "watch" in url.query:
        return "watch"
    return "list" if url.name == "pods" else "get"


def namespace_of(url: URL) -> str:
    """Return the namespace whose Pods a URL is about."""
    return url.parts[-2]


def _version(body: bytes) -> str | None:
    try:
        return _LIST_RESPONSE.decode(body).metadata.version or None
    except (msgspec.DecodeError, ValueError, RecursionError):  # kopf says what it thinks of such an answer
        return None
