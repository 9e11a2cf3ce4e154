"""What a shell offers for a word: Airflows and namespaces of the configuration, Pods and namespaces of the cluster.

A completion must neither fail nor wait for long: whatever goes wrong, nothing is offered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from healer.cluster import Cluster, Connection
from healer.config import OVERRIDES, Config, covers, is_pattern, load

MOST = 500
"""Candidates beyond which no more are offered: nobody reads them."""

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _quietly(offer: Callable[[click.Context, str], Iterable[str]]) -> Complete:
    @wraps(offer)
    def complete(ctx: click.Context, _parameter: click.Parameter, open_word: str) -> list[CompletionItem]:
        try:
            found = sorted(word for word in offer(ctx, open_word) if word.startswith(open_word))
        except Exception:  # noqa: BLE001 - a shell that completes must show no error: it would stand in the user's line
            return []
        return [CompletionItem(word) for word in found[:MOST]]

    return complete


@_quietly
def airflows(ctx: click.Context, _open_word: str) -> Iterable[str]:
    """Offer the names of the configured Airflows."""
    return [airflow.name for airflow in _config(ctx).airflows]


@_quietly
def namespaces(ctx: click.Context, _open_word: str) -> Iterable[str]:
    """Offer the namespaces that the cluster has and the account may list."""
    with _cluster(ctx) as cluster:
        return cluster.list_namespaces()


@_quietly
def pods(ctx: click.Context, open_word: str) -> Iterable[str]:
    """Offer the operator's Pods as NAMESPACE/POD; of the namespace that is written already, else of all configured."""
    begun, slash, _ = open_word.partition("/")
    config = _config(ctx)
    with _cluster(ctx) as cluster:
        every = config.namespaces + (cluster.list_namespaces() if config.patterns else [])
        names = [name for name in dict.fromkeys(every) if not is_pattern(name) and covers(config.namespaces, name)]
        wanted = [name for name in names if (name == begun if slash else name.startswith(begun))]
        return [str(pod) for namespace in wanted for pod in cluster.list_pods(namespace).pods]


def _config(ctx: click.Context) -> Config:
    given = ctx.params
    flags = {override.flag: given.get(override.flag) for override in OVERRIDES if override.flag}
    return load(given.get("config"), flags, os.environ)


def _cluster(ctx: click.Context) -> Cluster:
    kubeconfig = ctx.params.get("kubeconfig")
    return Cluster(Connection(Path(kubeconfig) if kubeconfig else None, ctx.params.get("context")))
