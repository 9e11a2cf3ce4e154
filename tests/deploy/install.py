"""The chart installed on the real API server beside a world of Pods and a real Airflow."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tests.deploy.chart import RELEASE, named, objects, render
from tests.deploy.container import Container
from tests.e2e.world import EAGER, UNLIMITED, World
from tests.lab.healer import QUICK
from tests.lab.kube import Cluster
from tests.lab.processes import free_ports, wait_for

Json = Any

PATIENCE = 120
"""Seconds for what takes a moment on an idle machine."""

Right = tuple[str, str, str]
"""Namespace, resource, verb."""


@dataclass
class Installed:
    """What was applied, and the container that its workload describes."""

    world: World
    namespace: str
    documents: list[Json]
    container: Container
    mark: int

    def granted(self) -> set[Right]:
        """Every right of the account's Roles."""
        return {
            (role["metadata"]["namespace"], resource, verb)
            for role in self.documents
            if role["kind"] == "Role"
            for rule in role["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    def asked(self, *, allowed: bool) -> set[Right]:
        """What the account asked for and was allowed, or was refused for want of a right, by the audit log."""
        events = self.world.cluster.audit(self.mark, user=self.container.user)
        return {
            (event.namespace, "/".join(filter(None, (event.resource, event.subresource))), event.verb)
            for event in events
            if event.resource and event.namespace and (event.code != 403) is allowed
        }

    def delete(self, pod: str, *, body: Json = None, query: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Sends a DELETE with the account's own token; status and the API server's words."""
        path = f"/api/v1/namespaces/{self.world.namespace}/pods/{quote(pod)}"
        return send(self.world.cluster, self.container.token, "DELETE", path, body, query)


def send(
    cluster: Cluster, token: str, method: str, path: str, body: Json = None, query: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """One request with somebody's token; status and the API server's words."""
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    with httpx.Client(base_url=cluster.url, verify=cluster._tls, trust_env=False, timeout=60) as client:
        answer = client.request(method, path, json=body, params=query, headers=headers)
    return answer.status_code, answer.json().get("message", "")


def values(world: World, *, mode: str, **more: Json) -> Json:
    """Values for the world's Airflow, as quick as tests need it."""
    (port,) = free_ports(1)
    airflow = {
        "name": "demo",
        "namespaces": [world.namespace],
        "ownership": "exclusive",
        "url": world.airflow.url,
        "username": "viewer",
        "passwordFile": "/etc/kpo-healer/secret/password",
        "policy": dict(EAGER),
        "limits": dict(UNLIMITED),
    }
    config = {**copy.deepcopy(QUICK), "mode": mode, "listen": f":{port}", "airflows": [airflow]}
    return {"config": config, "secret": {"data": {"password": "viewer"}}, **more}


@contextmanager
def installed(world: World, namespace: str, given: Json, folder: Path) -> Iterator[Installed]:
    """The chart with these values in `namespace`; what it made outside of namespaces is removed at the end."""
    cluster, mark = world.cluster, world.cluster.audit_mark()
    documents = objects(render(given, namespace=namespace, folder=folder))
    try:
        for document in documents:
            cluster.apply(document)
        workload = next(one for one in documents if one["kind"] in ("Deployment", "CronJob"))
        container = Container(cluster, namespace, template(workload), folder / "root")
        made = Installed(world, namespace, documents, container, mark)
        wait_for(lambda: has_rights(made), timeout=PATIENCE, what="the rights of the chart's account")
        yield made
    finally:
        for document in documents:
            if document["kind"].startswith(("ValidatingAdmissionPolicy", "ClusterRole")):
                remove(cluster, document)


def template(workload: Json) -> Json:
    """The Pod template of a Deployment or CronJob."""
    spec = workload["spec"]
    return spec["template"] if workload["kind"] == "Deployment" else spec["jobTemplate"]["spec"]["template"]


def remove(cluster: Cluster, document: Json) -> None:
    kind = document["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    path = f"/apis/{document['apiVersion']}/{plural}/{document['metadata']['name']}"
    cluster.request("DELETE", path, expect=(200, 404))


def has_rights(made: Installed) -> bool:
    """RBAC reads its rules through a watch: they hold a moment after they were written."""
    return all(may(made.world.cluster, made.container.user, right) for right in made.granted())


def may(cluster: Cluster, user: str, right: Right) -> bool:
    namespace, resource, verb = right
    group = "coordination.k8s.io" if resource == "leases" else ""
    asked = {"namespace": namespace, "resource": resource, "verb": verb, "group": group}
    if resource == "leases" and verb != "create":
        asked["name"] = "kpo-healer"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": asked},
    }
    answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def policy_name(made: Installed, which: str) -> str:
    """Of the chart's admission policy `delete` or `labels`."""
    name = f"{RELEASE}-{made.namespace}-{which}"
    assert named(made.documents, "ValidatingAdmissionPolicy", name)
    return name
