"""The picture of the Pods, kept fresh between full listings by kopf's watch. The only file that knows kopf.

kopf only hints. Its one handler puts what it was told into the `PodStore` and does nothing else: it decides nothing,
asks nobody and writes nothing. A full LIST is the truth; hints fill the time between two of them. kopf ends on a single
odd answer, so it is supervised and started anew, and it never says which Pods vanished while it was away, so every list
of its own asks us for a full LIST too.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf
from msgspec import Struct
from yarl import URL

from healer.clock import steady
from healer.cluster import ConnectError, Connection, Listing, decode_pod
from healer.model import POD_SELECTOR, Pod

CHUNK = 500
IDLE = 0.1
"""Seconds after which kopf's worker of a quiet Pod ends: with the default of 5 s, 10,000 Pods cost 460 MB, not 120."""
SERVER_TIMEOUT = 300
"""Seconds; an int, as the API server refuses `300.0` (400) and kopf would end."""
REQUEST_TIMEOUT = 30.0
CONNECT_TIMEOUT = 10.0
LOGIN_AGAIN = timedelta(minutes=10)
"""kopf reads a token once per login; the ServiceAccount's changes on disk every hour or so."""
FIRST_BACKOFF = 1.0
LAST_BACKOFF = 30.0
STEADY = 60.0
"""Seconds of life after which a death counts as the first one again."""
STOP_TIMEOUT = 10.0
DYING = 7.0
"""Seconds that kopf gets to end once it has died; it takes five."""
BURY_AGAIN = 1.0
CLOSING = 0.25
"""Seconds that aiohttp's documentation gives connections to close before their loop does."""

_log = logging.getLogger(__name__)


class _Gone(Struct, frozen=True):
    """A Pod that was dropped: from which namespace, by which hint, and as of which resourceVersion."""

    namespace: str
    hint: int
    version: int | None


class PodStore:
    """The KPO Pods as far as known, by uid. Safe to use from several threads.

    Hints and listings reach it in any order. What is older never replaces what is newer: resourceVersions decide where
    both are numbers, as they are for Pods on any API server over etcd; else the order of arrival does.
    """

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        """Take `wake`, which is called after each change, outside the lock; it must be quick and not raise."""
        self._wake = wake
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._hinted: dict[str, int] = {}
        self._gone: dict[str, _Gone] = {}
        self._changed: set[str] = set()
        self._unreadable: dict[str, str] = {}
        self._listed: set[str] = set()
        self._hints = 0

    def apply(self, pod: Pod) -> None:
        """Take a hint: the Pod looks like this."""
        with self._lock:
            self._hints += 1
            if not self._is_news(pod):
                return
            self._gone.pop(pod.uid, None)
            self._hinted[pod.uid] = self._hints
            self._put(pod)
        self._wake()

    def drop(self, uid: str, namespace: str = "", resource_version: str = "") -> None:
        """Take a hint: there is no such Pod any more, or it left the selection. Always safe."""
        with self._lock:
            self._hints += 1
            known = self._pods.get(uid)
            if known is not None:
                namespace = known.namespace
            self._gone[uid] = _Gone(namespace, self._hints, _number(resource_version))
            if known is not None:
                self._remove(uid)
        self._wake()

    def begin(self) -> int:
        """Return the token to give to `replace`: call it before the LIST is sent."""
        with self._lock:
            return self._hints

    def replace(self, namespace: str, listing: Listing, started: int) -> None:
        """Take a complete LIST as the truth about a namespace, but for what was hinted after it.

        Args:
            namespace: the one that was listed.
            listing: all of it.
            started: what `begin` returned before it was sent.
        """
        version = _number(listing.resource_version)
        listed = {pod.uid for pod in listing.pods}
        with self._lock:
            for uid in [pod.uid for pod in self._pods.values() if pod.namespace == namespace]:
                if uid not in listed and not self._is_later(uid, version, started):
                    self._remove(uid)
            for pod in listing.pods:
                if self._is_news(pod, started):
                    self._gone.pop(pod.uid, None)
                    self._put(pod)
            self._forget_gone(namespace, version, started)
            self._unreadable.pop(namespace, None)
            self._listed.add(namespace)
        self._wake()

    def unreadable(self, namespace: str, why: str) -> None:
        """Note that the last LIST of a namespace failed: its Pods stay, but nothing is known about them."""
        with self._lock:
            self._unreadable[namespace] = why
        self._wake()

    def why_unreadable(self, namespace: str) -> str | None:
        """Return why a namespace can't be read now, in one sentence; None where its last LIST was complete."""
        with self._lock:
            if namespace in self._unreadable:
                return self._unreadable[namespace]
            return None if namespace in self._listed else f"Namespace {namespace} was not listed yet."

    def snapshot(self) -> list[Pod]:
        """Return all Pods, also those of namespaces that can't be read now."""
        with self._lock:
            return list(self._pods.values())

    def get(self, uid: str) -> Pod | None:
        """Return one Pod as far as known."""
        with self._lock:
            return self._pods.get(uid)

    def changed(self) -> set[str]:
        """Return the uids of the Pods that came, changed or went since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
            return changed

    def __len__(self) -> int:
        """Return how many Pods are known."""
        return len(self._pods)

    def _is_news(self, pod: Pod, listed_since: int | None = None) -> bool:
        """Whether this look at a Pod is newer than what we have; `listed_since` where it comes from a LIST."""
        version = _number(pod.resource_version)
        gone = self._gone.get(pod.uid)
        if gone is not None:
            return _newer(version, gone.version, otherwise=listed_since is None or gone.hint <= listed_since)
        known = self._pods.get(pod.uid)
        if known is None:
            return True
        late = listed_since is None or self._hinted.get(pod.uid, 0) <= listed_since
        return _newer(version, _number(known.resource_version), otherwise=late)

    def _is_later(self, uid: str, listed: int | None, started: int) -> bool:
        """Whether a Pod that a LIST does not have came, or was changed, after that LIST."""
        known = _number(self._pods[uid].resource_version)
        return _newer(known, listed, otherwise=self._hinted.get(uid, 0) > started)

    def _forget_gone(self, namespace: str, version: int | None, started: int) -> None:
        """Forget dropped Pods that no listing which is still to come can bring back."""
        for uid, gone in list(self._gone.items()):
            if gone.namespace in {namespace, ""} and gone.hint <= started and not _newer(gone.version, version):
                del self._gone[uid]

    def _put(self, pod: Pod) -> None:
        if self._pods.get(pod.uid) != pod:
            self._pods[pod.uid] = pod
            self._changed.add(pod.uid)

    def _remove(self, uid: str) -> None:
        del self._pods[uid]
        self._hinted.pop(uid, None)
        self._changed.add(uid)


def _number(resource_version: str) -> int | None:
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else None


def _newer(one: int | None, other: int | None, *, otherwise: bool = False) -> bool:
    """Whether the first resourceVersion is newer; `otherwise` where one of them is no number."""
    return otherwise if one is None or other is None else one > other


class Watch:
    """kopf in a thread and an event loop of its own, watching some namespaces; it hints into the store.

    Its own loop, because kopf cancels what else runs in its loop when it ends. It is stopped by cancelling it: given a
    `threading.Event` to wait for, a kopf that died on its own would hang, and a clean end takes it five seconds.
    """

    def __init__(
        self,
        connection: Connection,
        namespaces: Sequence[str],
        store: PodStore,
        *,
        on_list: Callable[[str], None] = lambda _namespace: None,
        observe: Callable[[str, str], None] = lambda _verb, _code: None,
    ) -> None:
        """Start nothing yet.

        Args:
            connection: where the API server is and who we are.
            namespaces: exact names.
            store: where the hints go.
            on_list: told, in kopf's thread, each time kopf has listed a namespace anew: at the start, after kopf died,
                after the watch expired (410). Pods may have vanished unseen until then, so a full LIST is due.
            observe: told the verb and the status code of each request.

        Raises:
            ValueError: no namespaces; kopf would take that for all of them.
        """
        if not namespaces:
            raise ValueError("There are no namespaces to watch.")
        self.restarts = 0
        self._connection = connection
        self._namespaces = list(dict.fromkeys(namespaces))
        self._store = store
        self._on_list = on_list
        self._observe = observe
        self._stopping = threading.Event()
        self._running = threading.Event()
        self._stop_kopf: Callable[[], None] = lambda: None
        self._login_backoff = Backoff(0.0)
        self._watched: set[str] = set()
        self._sessions: weakref.WeakSet[aiohttp.ClientSession] = weakref.WeakSet()
        self._thread = threading.Thread(target=self._supervise, name="watch", daemon=True)

    def start(self) -> None:
        """Start watching, and go on until `stop`."""
        _quieten()
        self._thread.start()

    def stop(self) -> None:
        """Stop within seconds. May be called twice, and before `start`."""
        self._stopping.set()
        self._stop_kopf()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT)

    def alive(self) -> bool:
        """Whether kopf is up now; between a death and the next start it is not."""
        return self._running.is_set() and self._thread.is_alive()

    def supervised(self) -> bool:
        """Whether the thread that starts kopf again and again is there."""
        return self._thread.is_alive()

    def watches(self, namespace: str) -> bool:
        """Whether hints about a namespace come in: its last request was answered, and kopf is up."""
        return namespace in self._watched

    def _supervise(self) -> None:
        backoff = Backoff(FIRST_BACKOFF)
        while not self._stopping.is_set():
            died = self._run_once()
            if self._stopping.is_set():
                return
            self.restarts += 1
            delay = backoff.next()
            _log.warning("The watch ended (%s); it starts again in %.0f s.", died, delay)
            self._stopping.wait(delay)

    def _run_once(self) -> str:
        """Run kopf until it ends, and say why it did."""
        try:
            asyncio.run(self._kopf())
        except asyncio.CancelledError:
            return "cancelled"
        except Exception as error:  # noqa: BLE001 - kopf ends with whatever went wrong, and must be started again
            return f"{type(error).__name__}: {error}"
        finally:
            self._running.clear()
            self._watched.clear()
        return "without an error"

    async def _kopf(self) -> None:
        loop, this, ready = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
        assert this is not None  # noqa: S101 - for the type checker: a coroutine runs in a task
        self._stop_kopf = lambda: _call_in(loop, this.cancel)
        if self._stopping.is_set():  # stopped before there was anything to cancel
            return
        tell = asyncio.create_task(self._tell_ready(ready))
        registry = self._registry()
        kopf.on.cleanup(registry=registry)(self._dying)
        try:
            await kopf.operator(
                registry=registry,
                settings=_settings(),
                namespaces=self._namespaces,
                standalone=True,
                ready_flag=ready,
            )
        finally:
            tell.cancel()
            # kopf closes its sessions when it is stopped, and leaves them open when it dies.
            for session in list(self._sessions):
                await session.close()
            # What was cancelled in the middle of a TLS handshake is closed a few turns of the loop later.
            await asyncio.sleep(CLOSING)

    async def _dying(self, **_: Any) -> None:
        """Hear from kopf that it ends, and see to it that it does.

        Dying of one namespace, it would wait for ever for another one that is just about to log in again.
        """
        self._watched.clear()
        asyncio.get_running_loop().call_later(DYING, _bury)

    async def _tell_ready(self, ready: asyncio.Event) -> None:
        await ready.wait()
        self._running.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        kopf.on.event("", "v1", "pods", registry=registry)(self._hint)
        return registry

    async def _hint(self, event: Mapping[str, Any], **_: Any) -> None:
        """Pass on what kopf was told. It returns nothing, as kopf would write what it returns into the Pod."""
        try:
            pod = decode_pod(event["object"])
            if pod is None:
                return
            if event["type"] == "DELETED":
                self._store.drop(pod.uid, pod.namespace, pod.resource_version)
            else:
                self._store.apply(pod)
        except Exception:  # noqa: BLE001 - the rim: one odd Pod must not cost all others their hints
            _log.exception("A hint was lost; the next full listing makes up for it.")

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
            middlewares=[_name_server(server_name)] if server_name else [],
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
                return await asyncio.to_thread(_connection_info, self._connection)
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
        verb, status = _verb(end.url), end.response.status
        self._observe(verb, str(status))
        self._note(end.url, watched=status == 200)
        if verb == "list" and status == 200 and "continue" not in end.url.query:
            # From here on kopf tells what changes. What vanished before it can't tell.
            self._on_list(end.url.parts[-2])

    async def _unanswered(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, end: aiohttp.TraceRequestExceptionParams
    ) -> None:
        self._observe(_verb(end.url), "timeout" if isinstance(end.exception, TimeoutError) else "unreachable")
        self._note(end.url, watched=False)

    def _note(self, url: URL, *, watched: bool) -> None:
        """Note whether a namespace is watched. A list alone tells nothing of what comes after it."""
        verb = _verb(url)
        if verb == "watch" and watched:
            self._watched.add(url.parts[-2])
        elif verb != "get" and not watched:
            self._watched.discard(url.parts[-2])


class Backoff:
    """Delays that double up to a limit, and begin anew after a steady time."""

    def __init__(self, first: float, clock: Callable[[], float] = steady) -> None:
        """Take the first delay in seconds; after 0 comes 1."""
        self._first = first
        self._clock = clock
        self._delay: float | None = None
        self._until = 0.0

    def next(self) -> float:
        """Return how long to wait now, in seconds."""
        now = self._clock()
        if self._delay is None or now > self._until + STEADY:
            self._delay = self._first
        else:
            self._delay = min(max(self._delay * 2, 1.0), LAST_BACKOFF)
        self._until = now + self._delay
        return self._delay


class _Retries:
    """kopf's delays between the attempts of one request, without an end.

    One namespace that is forbidden, or a server that is away, then doesn't end the whole watch.
    """

    def __iter__(self) -> Iterator[float]:
        for delay in chain((1, 2, 4, 8, 16), repeat(LAST_BACKOFF)):
            yield delay * random.uniform(0.8, 1.2)


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf would else copy and compare each Pod at each event, for handlers that we don't have."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Nowhere to write to: our one handler has no progress."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def _settings() -> kopf.OperatorSettings:
    """kopf, as slim and as silent as it can be: nothing is ever written, neither to Pods nor as Events."""
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None  # else it SIGKILLs us ten minutes after it died
    settings.scanning.disabled = True  # exact namespaces: nothing to discover, and no rights to do so
    settings.posting.enabled = False
    settings.persistence.finalizer = "kpo-healer.invalid/never-used"  # it strips its default one, whoever set it
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.progress_storage = _NoProgress()
    settings.queueing.idle_timeout = IDLE
    settings.watching.chunk_size = CHUNK
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.label_selectors["", "v1", "pods"] = POD_SELECTOR
    settings.networking.request_timeout = REQUEST_TIMEOUT
    settings.networking.connect_timeout = CONNECT_TIMEOUT
    settings.networking.error_backoffs = _Retries()
    return settings


def _connection_info(connection: Connection) -> tuple[kopf.ConnectionInfo, str | None]:
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


def _verb(url: URL) -> str:
    """Return RBAC's word for a GET of kopf's."""
    if "watch" in url.query:
        return "watch"
    return "list" if url.name == "pods" else "get"


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed: kopf has ended already
        loop.call_soon_threadsafe(function)


def _bury() -> None:
    """Cancel all that is left in this loop, until the loop is closed: some of kopf's waiting outlives one attempt."""
    for task in asyncio.all_tasks():
        task.cancel()
    asyncio.get_running_loop().call_later(BURY_AGAIN, _bury)


def _quieten() -> None:
    """Keep kopf's log out of ours, unless somebody debugs.

    It tells each attempt at a forbidden namespace and each of its ends with several tracebacks. What a user can act
    upon, our own listings and the supervisor say in one sentence.
    """
    debugging = logging.getLogger().isEnabledFor(logging.DEBUG)
    logging.getLogger("kopf").setLevel(logging.INFO if debugging else logging.CRITICAL)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # else a line for each Pod at each listing
