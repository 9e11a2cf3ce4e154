"""What a kubelet answers to the API server, for kwok's pods: logs, and the exec by which KPO talks to its xcom sidecar.

kwok's own exec would run KPO's commands on this machine, `kill -2 $(pgrep …)` among them. Here nothing is run: the two
commands that KPO sends are recognised and played on the pod's status.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from aiohttp import WSMsgType, web

SIDECAR: Final = "airflow-xcom-sidecar"
STDIN, STDOUT, ERROR = 0, 1, 3
PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
NO_RESULT: Final = "__airflow_xcom_result_empty__"
SUCCESS: Final = json.dumps({"metadata": {}, "status": "Success"})
PREFIX: Final = "lab.kpo-healer.io/"
API: Final = web.AppKey("api", aiohttp.ClientSession)


def application(kubeconfig: Path) -> web.Application:
    app = web.Application()

    async def api(app: web.Application) -> Any:
        async with _session(kubeconfig) as session:
            app[API] = session
            yield

    app.cleanup_ctx.append(api)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", _logs)
    for method in ("GET", "POST"):
        app.router.add_route(method, "/exec/{namespace}/{pod}/{container}", _exec)
    return app


def _session(kubeconfig: Path) -> aiohttp.ClientSession:
    config = yaml.safe_load(kubeconfig.read_text())
    # A lab on one machine: the token goes to 127.0.0.1 only.
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    return aiohttp.ClientSession(
        base_url=config["clusters"][0]["cluster"]["server"],
        headers={"Authorization": f"Bearer {config['users'][0]['user']['token']}"},
        connector=aiohttp.TCPConnector(ssl=tls),
    )


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _pod(request: web.Request) -> Mapping[str, Any]:
    path = "/api/v1/namespaces/{namespace}/pods/{pod}".format(**request.match_info)
    async with request.app[API].get(path) as answer:
        if answer.status != 200:
            raise web.HTTPNotFound(text="no such pod")
        pod: Mapping[str, Any] = await answer.json()
        return pod


def _annotation(pod: Mapping[str, Any], name: str, default: str) -> str:
    return str(pod["metadata"].get("annotations", {}).get(PREFIX + name, default))


def _state(pod: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    statuses = pod["status"].get("containerStatuses", ())
    return next((one["state"] for one in statuses if one["name"] == container), {})


async def _logs(request: web.Request) -> web.StreamResponse:
    """The annotation `log`, line by line; a follower is kept until the container has ended, as by a real kubelet."""
    pod = await _pod(request)
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ") if request.query.get("timestamps") == "true" else ""
    for line in _annotation(pod, "log", "hello from the lab").splitlines():
        await response.write(f"{stamp}{line}\n".encode())
    if request.query.get("follow") == "true":
        await _until_ended(request)
    return response


async def _until_ended(request: web.Request) -> None:
    while True:
        try:
            if "running" not in _state(await _pod(request), request.match_info["container"]):
                return
        except web.HTTPNotFound:
            return
        await asyncio.sleep(0.5)


async def _exec(request: web.Request) -> web.StreamResponse:
    pod = await _pod(request)
    if "running" not in _state(pod, request.match_info["container"]):
        raise web.HTTPBadRequest(text="container not found or not running")
    socket = web.WebSocketResponse(protocols=PROTOCOLS)
    if not socket.can_prepare(request).ok:
        raise web.HTTPBadRequest(text=f"only WebSocket with one of {PROTOCOLS} is spoken here")
    await socket.prepare(request)
    await _send(socket, STDOUT, await _play(request, pod, await _command(request, socket)))
    await _send(socket, ERROR, SUCCESS)
    await socket.close()
    return socket


async def _command(request: web.Request, socket: web.WebSocketResponse) -> str:
    """From the arguments, or, when a bare shell was asked for, the first line that comes in."""
    words = request.query.getall("command", [])
    if request.query.get("input") not in {"1", "true"}:
        return " ".join(words)
    async for message in socket:
        data = message.data.encode() if message.type is WSMsgType.TEXT else bytes(message.data)
        if data[:1] == bytes([STDIN]) and len(data) > 1:
            return data[1:].decode()
    return ""


async def _send(socket: web.WebSocketResponse, channel: int, text: str) -> None:
    if text:
        await socket.send_bytes(bytes([channel]) + text.encode())


async def _play(request: web.Request, pod: Mapping[str, Any], command: str) -> str:
    if "return.json" in command:
        return _annotation(pod, "xcom", NO_RESULT)
    if re.search(r"\bkill -2\b", command) and request.match_info["container"] == SIDECAR:
        await _end_sidecar(request, pod)
    return ""


async def _end_sidecar(request: web.Request, pod: Mapping[str, Any]) -> None:
    """The sidecar ends well; when it was the last container, the pod's phase follows from the others' exit codes."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
    statuses = [
        {**one, "ready": False, "started": False, "state": ended} if one["name"] == SIDECAR else one
        for one in pod["status"]["containerStatuses"]
    ]
    status: dict[str, Any] = {"containerStatuses": statuses}
    ends = [one["state"].get("terminated") for one in statuses]
    if all(ends):
        status["phase"] = "Failed" if any(end["exitCode"] for end in ends) else "Succeeded"
    path = "/api/v1/namespaces/{namespace}/pods/{pod}/status".format(**request.match_info)
    headers = {"Content-Type": "application/merge-patch+json"}
    async with request.app[API].patch(path, data=json.dumps({"status": status}), headers=headers) as answer:
        answer.raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.kubelet", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    for name in ("kubeconfig", "cert", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options.cert, options.key)
    app = application(options.kubeconfig)
    web.run_app(app, host="127.0.0.1", port=options.port, ssl_context=tls, print=None, access_log=None)


if __name__ == "__main__":
    main()
