"""What an answer of the API server means: its body, or an error whose sentence says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from healer.cluster.transport import KubeReply
from healer.errors import AccessDeniedError, ClusterError, InvalidResponseError, ResourceExpiredError, ServerBusyError


def grant_hint(verb: str, resource: str, namespace: str) -> str:
    """Return the sentence that says how to give the healer a right."""
    if not namespace:
        return f"its account needs the verb {verb} on {resource}"
    return (
        f"bind its account to a Role that allows it: kubectl create role kpo-healer-{verb}-{resource} --verb={verb} "
        f"--resource={resource} -n {namespace}, then kubectl create rolebinding"
    )


def require_success(reply: KubeReply, doing: str, right: tuple[str, str, str]) -> bytes:
    """Return the body of a 2xx answer, else raise what its status means."""
    if 200 <= reply.status < 300:
        return reply.body
    raise _error(reply, doing, right)


def _error(reply: KubeReply, doing: str, right: tuple[str, str, str]) -> ClusterError:
    said = f" ({reply.message})" if reply.message else ""
    where = f" in namespace {right[2]}" if right[2] else ""
    status = reply.status
    match status:
        case 401:
            text = f"The API server does not know the healer's credentials (401){said}: renew its token or login."
            return AccessDeniedError(text, status=status)
        case 403:
            return AccessDeniedError(f"The healer may not {doing}{where}{said}: {grant_hint(*right)}.", status=status)
        case 409:
            text = f"The API server refused to {doing}{where}{said}: somebody else was faster."
            return ClusterError(text, status=status)
        case 410:
            return ResourceExpiredError(
                f"The API server forgot what it was listing{where}{said}: try again.", status=status
            )
        case 429 | 500 | 502 | 503 | 504:
            text = f"The API server can't {doing}{where} now ({status}){said}."
            return ServerBusyError(text, retry_after=reply.retry_after, status=status)
        case _:
            text = f"The API server answered {status} when asked to {doing}{where}{said}: is it one?"
            return InvalidResponseError(text, status=status)


def as_object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object; raise Malformed if it is none."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidResponseError(f"The API server's answer is no JSON object ({error}): is it one?") from error


def dig(value: Any, *keys: str) -> Any:
    """Return what lies there in nested objects, None where anything on the way is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
