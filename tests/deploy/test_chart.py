"""The chart by itself: it renders what every Kubernetes takes, and refuses what is wrong in words that help."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from deploy.generate import CHART, MANIFESTS, SCHEMA, manifest, target
from healer import __version__
from healer.config import Config
from healer.decision.quarantine import ABSENT
from tests.deploy.chart import NAMESPACE, VALUES, RefusedError, conform, named, objects, render, run
from tests.lab.chart_assets import VERSIONS

LEAST: Any = yaml.safe_load((CHART / "ci/report-values.yaml").read_text())


@cache
def rendered(values: Path) -> list[Any]:
    return objects(render(values))


def kinds(documents: list[Any]) -> set[str]:
    return {document["kind"] for document in documents}


# --- what is generated is up to date ---


@pytest.mark.parametrize("values", sorted(MANIFESTS.glob("*.values.yaml")), ids=lambda path: path.name.split(".")[0])
def test_the_plain_manifests_are_those_of_the_chart(values: Path) -> None:
    assert target(values).read_text() == manifest(values), "call make manifests"


def test_the_chart_has_the_version_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


# --- what it renders ---


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_helm_finds_nothing_wrong(values: Path) -> None:
    assert "0 chart(s) failed" in run("lint", "--strict", str(CHART), "--values", str(values))


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_all_of_it(version: str, tmp_path: Path) -> None:
    """kubeconform in strict mode: a field that this version of the API doesn't have is an error."""
    files = [tmp_path / values.name for values in VALUES]
    for file, values in zip(files, VALUES, strict=True):
        file.write_text(render(values, version=version))
    told = conform(version, *files)
    assert told.get("resources") in (None, []), told["resources"]
    assert told["summary"]["valid"] == sum(len(objects(file.read_text())) for file in files)


@pytest.mark.parametrize("field", ["runAsUser: 65532", "interval: 15s", "maxUnavailable: 1", "failurePolicy: Fail"])
def test_a_field_that_does_not_exist_would_be_noticed(field: str, tmp_path: Path) -> None:
    text = render(CHART / "ci/everything-values.yaml")
    wrong = tmp_path / "wrong.yaml"
    twice, count = re.subn(rf"^( *)({field})$", r"\1\2\n\1unknown: 1", text, count=1, flags=re.MULTILINE)
    assert count == 1
    wrong.write_text(twice)
    assert conform("1.34.0", wrong)["summary"]["invalid"] == 1


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_the_configuration_arrives_word_for_word(values: Path) -> None:
    given = yaml.safe_load(values.read_text())["config"]
    config = yaml.safe_load(named(rendered(values), "ConfigMap", "kpo-healer")["data"]["config.yaml"])
    named_after_the_release = {"leaderElection": {"name": "kpo-healer", **given.get("leaderElection", {})}}
    assert config == {"mode": "report"} | given | named_after_the_release
    Config.model_validate(config, by_alias=True, by_name=False)


def test_everything_is_there_when_it_is_switched_on() -> None:
    expected = {"ServiceMonitor", "PrometheusRule", "NetworkPolicy", "PodDisruptionBudget", "Service", "Deployment"}
    expected |= {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert expected <= kinds(rendered(CHART / "ci/everything-values.yaml"))


def test_the_least_is_a_deployment_that_reports() -> None:
    documents = rendered(CHART / "ci/report-values.yaml")
    expected = {"ServiceAccount", "ConfigMap", "Role", "RoleBinding", "Service", "Deployment", "PodDisruptionBudget"}
    assert kinds(documents) == expected
    assert named(documents, "Deployment")["spec"]["replicas"] == 2


def test_a_cron_job_stands_in_for_the_deployment() -> None:
    documents = rendered(CHART / "ci/cronjob-values.yaml")
    assert not kinds(documents) & {"Deployment", "Service", "PodDisruptionBudget"}
    pod = named(documents, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][:2] == ["run", "--once"]


def pods(documents: list[Any]) -> Iterator[Any]:
    for document in documents:
        if document["kind"] == "Deployment":
            yield document["spec"]["template"]["spec"]
        if document["kind"] == "CronJob":
            yield document["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_its_pods_are_restricted_ones(values: Path) -> None:
    """By the Pod Security Standards' restricted profile; the install test has the API server say so."""
    (pod,) = pods(rendered(values))
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}


# --- what platforms want ---


def pod_of(values: Any, folder: Path) -> Any:
    (pod,) = pods(objects(render(values, folder=folder)))
    return pod


def test_a_null_leaves_a_key_of_the_security_context_away(tmp_path: Path) -> None:
    """OpenShift gives user, group and fsGroup itself, and refuses others."""
    values = change("podSecurityContext", {"runAsUser": None, "runAsGroup": None, "fsGroup": None})
    values |= {"securityContext": {"readOnlyRootFilesystem": None, "runAsUser": None}}
    pod = pod_of(values, tmp_path)
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_further_words_stand_behind_the_charts_own(tmp_path: Path) -> None:
    container = pod_of(change("extraArgs", ["--log-level", "debug"]), tmp_path)["containers"][0]
    assert container["args"] == ["run", "--config", "/etc/kpo-healer/config/config.yaml", "--log-level", "debug"]


def test_variables_of_whole_secrets(tmp_path: Path) -> None:
    given = [{"secretRef": {"name": "proxy"}, "prefix": "X_"}]
    assert pod_of(change("envFrom", given), tmp_path)["containers"][0]["envFrom"] == given


def test_a_token_for_another_audience_is_a_file(tmp_path: Path) -> None:
    given = [{"name": "aws", "audience": "sts.amazonaws.com", "mountPath": "/var/run/secrets/aws"}]
    pod = pod_of(change("projectedTokens", given), tmp_path)
    (volume,) = (one for one in pod["volumes"] if one["name"] == "token-aws")
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"] == {
        "audience": "sts.amazonaws.com",
        "expirationSeconds": 3600,
        "path": "token",
    }
    assert {"name": "token-aws", "mountPath": "/var/run/secrets/aws", "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]


def test_the_accounts_own_token_may_be_left_away(tmp_path: Path) -> None:
    assert pod_of(change("serviceAccount.automount", False), tmp_path)["automountServiceAccountToken"] is False


def test_sidecars_stand_beside_and_before(tmp_path: Path) -> None:
    values = change("extraContainers", [{"name": "proxy", "image": "{{ .Release.Name }}-proxy"}])
    values["initContainers"] = [{"name": "wait", "image": "wait", "restartPolicy": "Always"}]
    pod = pod_of(values, tmp_path)
    assert [one["name"] for one in pod["containers"]] == ["kpo-healer", "proxy"]
    assert pod["containers"][1]["image"] == "kpo-healer-proxy"
    assert pod["initContainers"] == [{"image": "wait", "name": "wait", "restartPolicy": "Always"}]


def test_a_cron_job_ends_in_spite_of_its_sidecars(tmp_path: Path) -> None:
    """Only native ones end with the healer: any other would keep the Job from ever being over."""
    values = change("cronJob.enabled", True)
    values["extraContainers"] = [{"name": "proxy", "image": "proxy"}]
    assert "write it into initContainers with restartPolicy: Always" in refusal(values, tmp_path)
    values["initContainers"] = [values.pop("extraContainers")[0] | {"restartPolicy": "Always"}]
    assert [one["name"] for one in pod_of(values, tmp_path)["containers"]] == ["kpo-healer"]
    (pod,) = pods(rendered(CHART / "ci/platforms-values.yaml"))
    assert [one["restartPolicy"] for one in pod["initContainers"]] == ["Always"]


@pytest.mark.parametrize("key", ["cookieFile", "clientSecretFile", "headersFile", "certFile"])
def test_each_file_of_a_login_is_one_of_the_secret(key: str, tmp_path: Path) -> None:
    values = change(f"config.airflows.0.{key}", "/etc/kpo-healer/secret/absent")
    values["secret"] = {"data": {"password": "x"}}
    assert f"config.airflows[0].{key}: secret.data has no key absent" in refusal(values, tmp_path)


def test_a_label_of_the_sites_own_is_what_the_guard_asks_for(tmp_path: Path) -> None:
    values = change("config.airflows.0.ownership", {"label": "acme.io/airflow", "value": "prod"})
    values["config"]["mode"] = "enforce"
    values["admissionPolicy"] = {"delete": {"enabled": True}}
    policy = named(objects(render(values, folder=tmp_path)), "ValidatingAdmissionPolicy")["spec"]
    (stamps,) = (one["expression"] for one in policy["variables"] if one["name"] == "stamps")
    assert json.loads(stamps) == {"airflow": [{"key": "acme.io/airflow", "value": "prod"}]}


# --- the network ---


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://airflow", 80),
        ("https://airflow.example.com/prod", 443),
        ("http://airflow-api-server.airflow:8080", 8080),
        ("https://[fd00::7]:8443/", 8443),
    ],
)
def test_the_network_policy_lets_through_what_the_healer_talks_to(url: str, port: int, tmp_path: Path) -> None:
    """No network plugin enforces it here: what it says is compared with the configuration and with the Pod."""
    values = change("networkPolicy", {"enabled": True})
    values["config"]["airflows"][0]["url"] = url
    documents = objects(render(values, folder=tmp_path))
    policy, template = named(documents, "NetworkPolicy")["spec"], named(documents, "Deployment")["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    out = [{(each["port"], each["protocol"]) for each in rule["ports"]} for rule in policy["egress"]]
    assert out == [{(53, "UDP"), (53, "TCP")}, {(443, "TCP"), (6443, "TCP")}, {(port, "TCP")}]
    (container,) = template["spec"]["containers"]
    (door,) = policy["ingress"]
    assert [each["port"] for each in door["ports"]] == [each["name"] for each in container["ports"]]


def test_the_network_policy_names_whom_it_is_told_to() -> None:
    policy = named(rendered(CHART / "ci/everything-values.yaml"), "NetworkPolicy")["spec"]
    given = yaml.safe_load((CHART / "ci/everything-values.yaml").read_text())["networkPolicy"]
    dns, server, airflow, *more = policy["egress"]
    assert "to" not in dns
    assert (server["to"], airflow["to"], more) == (given["apiServerTo"], given["airflowTo"], given["extraEgress"])
    assert [rule["from"] for rule in policy["ingress"]] == [given["ingressFrom"]]


def test_nobody_can_talk_to_a_cron_job() -> None:
    policy = named(rendered(CHART / "ci/cronjob-values.yaml"), "NetworkPolicy")["spec"]
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress", "Egress"], [])


# --- who asks for findings ---


def test_the_replica_that_leads_is_found_by_a_headless_service(tmp_path: Path) -> None:
    documents = objects(render(change("config.findings", True), folder=tmp_path))
    service, template = named(documents, "Service", "kpo-healer-headless"), named(documents, "Deployment")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= template["spec"]["template"]["metadata"]["labels"].items()
    (container,) = template["spec"]["template"]["spec"]["containers"]
    (port,) = service["spec"]["ports"]
    assert {port["targetPort"]} == {each["name"] for each in container["ports"]}


def test_the_headless_service_is_not_scraped_too() -> None:
    """A ServiceMonitor finds Services by their labels, which both have, and ports by their name."""
    documents = rendered(CHART / "ci/everything-values.yaml")
    (endpoint,) = named(documents, "ServiceMonitor")["spec"]["endpoints"]
    ports = {s["metadata"]["name"]: s["spec"]["ports"][0]["name"] for s in documents if s["kind"] == "Service"}
    assert [name for name, port in ports.items() if port == endpoint["port"]] == ["kpo-healer"]
    assert len(ports) == 2


def test_without_findings_there_is_none() -> None:
    services = [document for document in rendered(CHART / "ci/report-values.yaml") if document["kind"] == "Service"]
    assert len(services) == 1


@pytest.mark.parametrize("name", ["kpo-healer", "x" * 63, "a" * 53 + "-" + "b" * 9])
def test_the_name_of_the_headless_service_is_one(name: str, tmp_path: Path) -> None:
    values = change("config.findings", True) | {"fullnameOverride": name}
    names = {d["metadata"]["name"] for d in objects(render(values, folder=tmp_path)) if d["kind"] == "Service"}
    assert len(names) == 2
    assert all(re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", each) for each in names)


# --- the rights ---


def verbs(documents: list[Any], namespace: str, resource: str, name: str = "kpo-healer") -> set[str]:
    rules = named(documents, "Role", name, namespace)["rules"]
    return {verb for rule in rules if resource in rule["resources"] for verb in rule["verbs"]}


def test_a_cron_job_watches_nothing_and_may_not() -> None:
    allowed = verbs(rendered(CHART / "ci/cronjob-values.yaml"), "airflow", "pods")
    assert allowed >= {"get", "list"}
    assert "watch" not in allowed


def test_the_right_to_delete_is_where_an_airflow_enforces() -> None:
    documents = rendered(CHART / "ci/enforce-values.yaml")
    look = {"get", "list", "watch"}
    pods_by_namespace = {space: verbs(documents, space, "pods") for space in ("airflow", "jobs", "trial")}
    assert pods_by_namespace == {"airflow": look | {"delete"}, "jobs": look | {"delete"}, "trial": look}
    assert verbs(documents, "trial", "events") == {"create", "patch"}
    assert verbs(documents, "leases", "leases", "kpo-healer-lease") == {"get", "update", "create"}
    assert "Role" not in kinds(rendered(CHART / "ci/single-values.yaml"))


@pytest.mark.parametrize(
    ("mode", "post_mortem", "granted"),
    [
        ("enforce", {"enabled": True}, {"get"}),
        ("enforce", {"enabled": True, "logLines": 0}, set()),
        ("enforce", {"enabled": False}, set()),
        ("report", {"enabled": True}, set()),
    ],
)
def test_the_right_to_logs_is_where_they_are_kept(
    mode: str, post_mortem: Any, granted: set[str], tmp_path: Path
) -> None:
    values = change("config.mode", mode)
    values["config"]["airflows"][0] |= {"postMortem": post_mortem, "ownership": "exclusive"}
    assert verbs(objects(render(values, folder=tmp_path)), "airflow", "pods/log") == granted


# --- what it refuses ---


def refusal(values: Any, folder: Path, **more: str) -> str:
    with pytest.raises(RefusedError) as refused:
        render(values, folder=folder, **more)
    return str(refused.value)


def change(place: str, value: Any) -> Any:
    """The least values with one more key, at a place such as `config.airflows.0.url`."""
    values = copy.deepcopy(LEAST)
    *parents, last = place.split(".")
    node = values
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
    node[last] = value
    return values


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("replicas", 2, "additional properties 'replicas' not allowed"),
        ("image.tagg", "1", "at '/image': additional properties 'tagg' not allowed"),
        ("commonLabels", {"app.kubernetes.io/instance": "x"}, "invalid propertyName 'app.kubernetes.io/instance'"),
        ("podLabels", {"app.kubernetes.io/name": "x"}, "invalid propertyName 'app.kubernetes.io/name'"),
        *(
            (place, None, f"missing property '{place.rpartition('.')[2]}'")
            for place in (
                "secret",
                "image",
                "cronJob",
                "rbac",
                "metrics",
                "metrics.podMonitor",
                "admissionPolicy.delete",
            )
        ),
        ("strategy.rollingUpdate", {"maxSurges": 1}, "/rollingUpdate': additional properties 'maxSurges' not allowed"),
        ("livenessProbe.timeoutSecond", 5, "at '/livenessProbe': additional properties 'timeoutSecond' not allowed"),
        ("metrics.podMonitor.relabeling", [], "'/metrics/podMonitor': additional properties 'relabeling' not allowed"),
        ("prometheusRule.thresholds", {"KpoHealerDown": 1}, "thresholds': additional properties 'KpoHealerDown' not"),
        ("resources.request", {"cpu": "1"}, "at '/resources': additional properties 'request' not allowed"),
        ("resources.limits", {"memmory": "1Gi"}, "at '/resources/limits': additional properties 'memmory' not allowed"),
        ("serviceMonitor.enabled", True, "additional properties 'serviceMonitor' not allowed"),
        ("networkPolicy.enable", True, "at '/networkPolicy': additional properties 'enable' not allowed"),
        ("replicaCount", "two", "at '/replicaCount': got string, want integer"),
        ("config.airflow", [], "at '/config': additional properties 'airflow' not allowed"),
        ("config.mode", "enforced", "at '/config/mode': value must be one of 'report', 'enforce'"),
        ("config.interval", 60, "at '/config/interval': got number, want string"),
        ("config.airflows.0.namespace", "airflow", "at '/config/airflows/0': additional properties 'namespace' not"),
        ("config.airflows.0.ownership", "exclusve", "at '/config/airflows/0/ownership': value must be one of"),
        ("config.airflows.0.policy.grace", "2 minutes", "at '/config/airflows/0/policy/grace': '2 minutes' does not"),
        ("config.airflows.0.policy.actions", {"orphan": "delete"}, "policy/actions': additional properties 'orphan'"),
    ],
)
def test_a_typo_is_refused(place: str, value: Any, told: str, tmp_path: Path) -> None:
    assert told in refusal(change(place, value), tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("config.airflows", [], "config.airflows: is empty: describe at least one"),
        ("extraEnv", [{"name": "KPO_HEALER_MODE", "value": "enforce"}], "extraEnv: KPO_HEALER_MODE would not change"),
        ("extraEnv", [{"name": "KPO_HEALER_LISTEN", "value": ":9"}], "extraEnv: KPO_HEALER_LISTEN would not change"),
        ("extraArgs", ["--mode", "enforce"], "extraArgs: --mode would not change the rights"),
        ("extraArgs", ["--log-level", "debug", "--mode=enforce"], "extraArgs: --mode would not change the rights"),
        ("extraArgs", ["--listen=:9"], "extraArgs: --listen would not change the port"),
        ("config.airflows.0.password", "x", "config.airflows[0].password: would stand in a ConfigMap"),
        ("secret.existingSecret", "", "config.airflows[0].passwordFile: there is no Secret with this file"),
        ("secret.data", {"a": "b"}, "secret: existingSecret and data exclude each other"),
        ("config.leaderElection", {"enabled": False}, "replicaCount: with config.leaderElection.enabled false"),
        ("config.listen", "127.0.0.1:8080", "config.listen: the kubelet can't reach"),
        ("admissionPolicy.labels", {"enabled": True}, "admissionPolicy.labels: nobody could start a task's Pod"),
        ("serviceAccount.create", False, "serviceAccount.name: without serviceAccount.create"),
    ],
)
def test_what_no_schema_can_say_is_refused_too(place: str, value: Any, told: str, tmp_path: Path) -> None:
    assert told in refusal(change(place, value), tmp_path)


@pytest.mark.parametrize(
    ("secret", "told"),
    [
        ({}, "config.listenTokenFile: there is no Secret with this file"),
        ({"data": {"password": "x"}}, "config.listenTokenFile: secret.data has no key listen-token"),
    ],
)
def test_a_token_of_the_port_that_is_nowhere_is_refused(secret: Any, told: str, tmp_path: Path) -> None:
    values = change("config.listenTokenFile", "/etc/kpo-healer/secret/listen-token")
    values["config"]["airflows"][0]["passwordFile"] = "/elsewhere/password"
    assert told in refusal(values | {"secret": secret}, tmp_path)


def test_a_ca_that_is_in_no_secret_is_refused(tmp_path: Path) -> None:
    values = change("config.airflows.0.caFile", "/etc/kpo-healer/secret/ca.crt") | {
        "secret": {"data": {"password": "x"}}
    }
    assert "config.airflows[0].caFile: secret.data has no key ca.crt" in refusal(values, tmp_path)


@pytest.mark.parametrize("place", ["extraArgs", "extraEnv", "prometheusRule.severities", "prometheusRule.overrides"])
def test_a_null_is_nothing(place: str, tmp_path: Path) -> None:
    assert render(change(place, None), folder=tmp_path) == render(LEAST, folder=tmp_path)


@pytest.mark.parametrize("place", ["config.mode", "config.airflows.0.mode"])
def test_enforce_without_ownership_is_refused(place: str, tmp_path: Path) -> None:
    values = change(place, "enforce")
    values["config"]["airflows"][0].pop("ownership", None)
    assert "config.airflows[0].ownership: enforce mode needs it" in refusal(values, tmp_path)


@pytest.mark.parametrize("history", ["configMap", "memory", False, None])
def test_the_history_needs_one_config_map_and_no_other(history: Any, tmp_path: Path) -> None:
    """Of the name that the program gives it; only what is not there yet can't be named."""
    values = change("config.leaderElection", {"name": "ours", "namespace": "leases"})
    values["config"] |= {} if history is None else {"history": history}
    documents = objects(render(values, folder=tmp_path))
    config = yaml.safe_load(named(documents, "ConfigMap", "kpo-healer")["data"]["config.yaml"])
    Config.model_validate(config, by_alias=True, by_name=False)
    rules = [
        (document["metadata"]["namespace"], rule.get("resourceNames"), set(rule["verbs"]))
        for document in documents
        if document["kind"] == "Role"
        for rule in document["rules"]
        if "configmaps" in rule["resources"]
    ]
    wanted = [("leases", ["ours-history"], {"get", "update"}), ("leases", None, {"create"})]
    assert rules == (wanted if history == "configMap" else [])


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("config.history", "configMap", "config.history: a CronJob keeps none"),
        ("metrics", {"serviceMonitor": {"enabled": True}}, "metrics.serviceMonitor: a CronJob serves no metrics"),
        ("metrics", {"podMonitor": {"enabled": True}}, "metrics.podMonitor: a CronJob serves no metrics"),
        ("prometheusRule", {"enabled": True}, "prometheusRule: a CronJob serves no metrics"),
        ("grafanaDashboard", {"enabled": True}, "grafanaDashboard: a CronJob serves no metrics"),
        ("config.findings", True, "config.findings: a CronJob serves nothing"),
        *(
            ("config.airflows.0.policy", {"actions": {reason.value: "delete"}}, "a CronJob never waits for its default")
            for reason in sorted(ABSENT)
        ),
    ],
)
def test_what_a_cron_job_can_not_do_is_refused(place: str, value: Any, told: str, tmp_path: Path) -> None:
    values = change(place, value)
    values["cronJob"] = {"enabled": True}
    assert told in refusal(values, tmp_path)


def test_admission_policies_need_a_kubernetes_that_has_them(tmp_path: Path) -> None:
    values = change("admissionPolicy.delete", {"enabled": True})
    assert "admissionPolicy: needs Kubernetes 1.30 or newer" in refusal(values, tmp_path, version="1.29.0")


def test_no_part_of_the_schema_takes_any_key() -> None:
    """All but what Kubernetes alone knows, and maps of strings."""
    free = {place for place, node in nodes(json.loads(SCHEMA.read_text()), "") if takes_all(node)}
    assert free == {
        "/global",
        "/extraEnv/[]/valueFrom",
        "/extraObjects/[]",
        "/extraVolumes/[]",
        "/initContainers/[]",
        "/extraContainers/[]",
        "/affinity/nodeAffinity",
        "/affinity/podAffinity",
        "/affinity/podAntiAffinity",
        "/networkPolicy/extraEgress/[]/ports/[]",
        "/definitions/selector/matchExpressions/[]",
        "/definitions/peer/ipBlock",
    }


def nodes(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    yield place, node
    for name, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{place}/{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{place}/[]")
    for name, inner in node.get("definitions", {}).items():
        yield from nodes(inner, f"/definitions/{name}")


def takes_all(node: Any) -> bool:
    return "object" in node.get("type", ()) and node.get("additionalProperties") is None


def test_the_schema_of_the_configuration_agrees_with_its_models(tmp_path: Path) -> None:
    """What the schema takes the program takes too, in all the sets of values; and both refuse the same typos."""
    for place, value in (("interval", "60"), ("airflow", []), ("mode", "x"), ("listen", "8080")):
        config = copy.deepcopy(LEAST["config"]) | {place: value}
        with pytest.raises(ValidationError):
            Config.model_validate(config, by_alias=True, by_name=False)
        assert "/config" in refusal(LEAST | {"config": config}, tmp_path)


# --- what it says ---


def notes_of(values: Any, folder: Path) -> str:
    words = ["install", "kpo-healer", str(CHART), "--namespace", NAMESPACE, "--dry-run=client"]
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    return run(*words, "--values", str(folder / "values.yaml")).partition("NOTES:")[2]


def test_the_notes_tell_the_next_step(tmp_path: Path) -> None:
    notes = notes_of(LEAST, tmp_path)
    assert "default: report mode, namespaces airflow" in notes
    assert f"kubectl -n {NAMESPACE} exec deploy/kpo-healer -- kpo-healer check" in notes
    assert "log" not in notes.replace("login", "")


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("config.log", {"format": "text"}, "config.log.format: text can't be judged again"),
        ("config.log", {"level": "error"}, "config.log.level: error leaves out decisions"),
        ("prometheusRule.enabled", True, "The alerts link a runbook that is nowhere yet"),
    ],
)
def test_the_notes_tell_what_is_lost(place: str, value: Any, told: str, tmp_path: Path) -> None:
    assert told in notes_of(change(place, value), tmp_path)
    assert told not in notes_of(LEAST, tmp_path)


def test_the_notes_tell_airflow_where_the_page_finds_the_healer(tmp_path: Path) -> None:
    values = change("config.findings", True)
    notes = notes_of(values, tmp_path)
    assert f"url = http://kpo-healer-headless.{NAMESPACE}:8080\n" in notes
    assert "set config.listenTokenFile, or networkPolicy" in notes
    values["config"]["listenTokenFile"] = "/etc/kpo-healer/secret/listen-token"
    assert "listenTokenFile" not in notes_of(values, tmp_path)
    assert "headless" not in notes_of(LEAST, tmp_path)


def test_the_alerts_link_the_site_that_is_named(tmp_path: Path) -> None:
    values = change("prometheusRule", {"enabled": True, "docsUrl": "https://docs.example.com/healer"})
    assert "nowhere yet" not in notes_of(values, tmp_path)
    groups = named(objects(render(values, folder=tmp_path)), "PrometheusRule")["spec"]["groups"]
    links = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]]
    assert all(link.startswith("https://docs.example.com/healer/runbook/#") for link in links)
