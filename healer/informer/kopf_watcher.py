"""kopf, as the healer uses it: one handler that feeds the `PodStore`. Only this module and settings know kopf.

The handler decides nothing, asks nothing and writes nothing. kopf ends on a single odd answer, so it is supervised and
started anew, and it never says which Pods vanished while it was away.

It runs in a loop of its own, because kopf cancels what else runs in its loop when it ends. It is stopped by
cancelling: given a `threading.Event` to wait for, a kopf that died on its own would hang, and a clean end takes it five
seconds.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf
from kopf._cogs.structs.references import Insights, NamespaceName
from yarl import URL

from healer.clock import boottime
from healer.cluster import Connection, decode_pod, what_is_told
from healer.errors import ConnectError
from healer.informer.backoff import Backoff
from healer.informer.resume import ResumeMiddleware, namespace_of, verb_of
from healer.informer.settings import quiet_settings
from healer.informer.status import WatchStatus
from healer.informer.store import PodStore

LOGIN_AGAIN = timedelta(minutes=10)
"""kopf reads a token once per login; the ServiceAccount's changes on disk every hour or so."""
CLEANUP_TIMEOUT = 7.0
"""Seconds that kopf gets to end once it has died; it takes five."""
CANCEL_INTERVAL = 1.0
CLOSE_DELAY = 0.25
"""Seconds that aiohttp's documentation gives connections to close before their loop does."""

_log = logging.getLogger(__name__)


class KopfWatcher:
    """kopf over some namespaces, to be run again after each of its ends."""

    def __init__(
        self,
        connection: Connection,
        namespaces: Sequence[str],
        store: PodStore,
        status: WatchStatus,
        *,
        on_list: Callable[[str], None],
        observe: Callable[[str, str], None],
        owner_labels: Collection[str] = (),
    ) -> None:
        """Ask nothing yet; the arguments are those of `Watch`."""
        self._connection, self._namespaces, self._store = connection, namespaces, store
        self._status, self._observe = status, observe
        self._owner_labels = owner_labels
        self._resume = ResumeMiddleware(store.listed_at, on_list)
        self._login_backoff = Backoff(0.0)
        self._sessions: weakref.WeakSet[aiohttp.ClientSession] = weakref.WeakSet()
        self._stop: Callable[[], None] = lambda: None
        self._turn: Callable[[], None] = lambda: None

    def stop(self) -> None:
        """Cancel it, from any thread."""
        self._stop()

    def retarget(self) -> None:
        """Watch what is wanted by now, from any thread. It is no end of kopf: what goes on is not interrupted."""
        self._turn()

    async def run(self) -> None:
        """Run until it is stopped or dies."""
        loop, this, ready = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
        assert this is not None  # noqa: S101 - for the type checker: a coroutine runs in a task
        self._stop = lambda: _call_in(loop, this.cancel)
        if self._status.stopping.is_set():  # stopped before there was anything to cancel
            return
        insights = self._targets(loop)
        marking = asyncio.create_task(self._mark_running(ready))
        registry = self._registry()
        kopf.on.cleanup(registry=registry)(self._on_cleanup)
        try:
            await kopf.operator(
                registry=registry,
                settings=quiet_settings(),
                namespaces=self._namespaces,
                insights=insights,
                standalone=True,
                ready_flag=ready,
            )
        finally:
            marking.cancel()
            # kopf closes its sessions when it is stopped, and leaves them open when it dies.
            for session in list(self._sessions):
                await session.close()
            # What was cancelled in the middle of a TLS handshake is closed a few turns of the loop later.
            await asyncio.sleep(CLOSE_DELAY)

    def _targets(self, loop: asyncio.AbstractEventLoop) -> Insights | None:
        """Return what tells kopf which namespaces to watch; None where that never changes.

        kopf knows patterns too, but it must list and watch namespaces for them by itself, and would die of a right that
        it has not. It is given none that are there, and told by us which ones are.
        """
        if self._status.wanted is None:
            return None
        insights, adjusting = Insights(), set[asyncio.Task[None]]()

        async def adjust() -> None:
            async with insights.revised:
                wanted = self._status.wanted or frozenset()
                for namespace in insights.namespaces - wanted:
                    self._resume.forget(str(namespace))
                insights.namespaces.clear()
                insights.namespaces.update(map(NamespaceName, wanted))
                insights.revised.notify_all()

        def turn() -> None:
            task = loop.create_task(adjust())
            adjusting.add(task)  # the loop itself would not keep it
            task.add_done_callback(adjusting.discard)

        self._turn = lambda: _call_in(loop, turn)  # from here on: whatever was wanted before is read below
        insights.namespaces.update(map(NamespaceName, self._status.wanted))
        return insights

    async def _on_cleanup(self, **_: Any) -> None:
        """Force the shutdown of a kopf that has died.

        When one namespace's watcher fails, kopf can hang on another that is logging in.
        """
        self._status.watched.clear()
        asyncio.get_running_loop().call_later(CLEANUP_TIMEOUT, _cancel_all)

    async def _mark_running(self, ready: asyncio.Event) -> None:
        await ready.wait()
        self._status.running.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        kopf.on.event("", "v1", "pods", registry=registry)(self._on_event)
        return registry

    async def _on_event(self, event: Mapping[str, Any], **_: Any) -> None:
        """Pass on an event. It returns nothing, as kopf would write what it returns into the Pod."""
        try:
            pod = decode_pod(event["object"], self._owner_labels)
            if pod is None:
                self._odd(event)
            elif event["type"] == "DELETED":
                self._store.delete(pod.uid, pod.namespace, pod.resource_version)
            else:
                self._store.upsert(pod)
        except Exception:  # noqa: BLE001 - the rim: one odd Pod must not cost all others their events
            _log.exception("A hint was lost; the next full listing makes up for it.")

    def _odd(self, event: Mapping[str, Any]) -> None:
        """Pass on that a Pod can't be decoded, or that such a one is gone."""
        odd, version = what_is_told(event["object"]), event["object"].get("metadata", {}).get("resourceVersion")
        version = version if isinstance(version, str) else ""
        if event["type"] == "DELETED":
            self._store.delete(odd.key, odd.namespace, version)
        else:
            self._store.spoil(odd, version)

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        """Give kopf a session of its own, with the credentials as they are now.

        kopf ends when it is given the same credentials again after a 401, and asks without a pause when it is given
        others: a session never equals another, and the pause is ours.
        """
        info, server_name = await self._credentials()
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers={**info.as_http_headers(), "User-Agent": "kpo-healer (kopf)"},
            proxy=info.proxy_url,
            middlewares=[self._resume, *([_name_server(server_name)] if server_name else [])],
            trace_configs=[self._trace()],
        )
        self._sessions.add(session)
        expiration = datetime.now(UTC) + LOGIN_AGAIN
        return kopf.AiohttpSession(server=info.server, aiohttp_session=session, expiration=expiration)

    async def _credentials(self) -> tuple[kopf.ConnectionInfo, str | None]:
        """Return our credentials as soon as there are any: a login that fails leaves kopf hanging for ever."""
        while True:
            await asyncio.sleep(self._login_backoff.next())
            try:
                return await asyncio.to_thread(connection_info, self._connection)
            except ConnectError as error:
                _log.warning("The watch has no credentials: %s", error)

    def _trace(self) -> aiohttp.TraceConfig:
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        trace.on_request_exception.append(self._unanswered)
        return trace

    async def _answered(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        status = end.response.status
        self._observe(verb_of(end.url), str(status))
        self._note(end.url, watched=status == 200)

    async def _unanswered(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, end: aiohttp.TraceRequestExceptionParams
    ) -> None:
        self._observe(verb_of(end.url), "timeout" if isinstance(end.exception, TimeoutError) else "unreachable")
        self._note(end.url, watched=False)

    def _note(self, url: URL, *, watched: bool) -> None:
        """Note whether a namespace is watched. A list alone says nothing of what comes after it."""
        verb = verb_of(url)
        if verb == "watch" and watched:
            self._status.begun(namespace_of(url), boottime())
        elif verb != "get" and not watched:
            self._status.watched.discard(namespace_of(url))


def connection_info(connection: Connection) -> tuple[kopf.ConnectionInfo, str | None]:
    """Return our credentials in kopf's words, and the name to expect in the server's certificate if it is another."""
    from kubernetes.client.rest import should_bypass_proxies

    configuration = connection.configuration()
    scheme, _, token = (configuration.get_api_key_with_prefix("BearerToken") or "").partition(" ")
    direct = not configuration.proxy or should_bypass_proxies(configuration.host, configuration.no_proxy or "")
    info = kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert or None,
        ca_data=configuration.ca_cert_data or None,
        insecure=not configuration.verify_ssl,
        scheme=scheme if token else None,
        token=token.strip() or scheme or None,
        certificate_path=configuration.cert_file or None,
        private_key_path=configuration.key_file or None,
        proxy_url=None if direct else configuration.proxy,
    )
    return info, configuration.tls_server_name or None


def _name_server(name: str) -> aiohttp.ClientMiddlewareType:
    async def middleware(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.server_hostname = name
        return await handler(request)

    return middleware


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed: kopf has ended already
        loop.call_soon_threadsafe(function)


def _cancel_all() -> None:
    """Cancel all that is left in this loop, until the loop is closed: some of kopf's waiting outlives one attempt."""
    for task in asyncio.all_tasks():
        task.cancel()
    asyncio.get_running_loop().call_later(CANCEL_INTERVAL, _cancel_all)
