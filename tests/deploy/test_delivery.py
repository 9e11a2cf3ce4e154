"""What brings the chart into a cluster, and what is read before that: README, own tests, kustomize, Argo CD, Flux."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.generate import CHART, MANIFESTS, README, SCHEMA, readme
from healer.config import Config
from tests.deploy.chart import VALUES, conform, named, objects, render, run
from tests.lab.chart_assets import DELIVERY, helm_unittest, kustomize, schemas_of
from tests.lab.prometheus_assets import programs

EXAMPLES = MANIFESTS.parent / "examples"
LEAST: Any = yaml.safe_load((CHART / "ci/report-values.yaml").read_text())


# --- what is read first ---


def test_the_readme_is_that_of_the_values() -> None:
    assert README.read_text() == readme(), "call make manifests"


def test_helm_shows_the_readme() -> None:
    assert run("show", "readme", str(CHART)).strip() == README.read_text().strip()


def test_the_readme_describes_every_value() -> None:
    """A ` --` within a comment would be taken for its beginning, and leave nothing."""
    rows = re.findall(r"^\| (\S+) \| \w+ \| (.+) \| *(.*?) *\|$", README.read_text(), re.MULTILINE)
    assert [key for key, _, described in rows if not described] == []
    given = yaml.safe_load((CHART / "values.yaml").read_text())
    told = {key for key, _, _ in rows}
    untold = [place for place in leaves(given) if not any(f"{place}.".startswith(f"{key}.") for key in told)]
    assert untold == []


def leaves(node: Any, place: str = "") -> list[str]:
    if not isinstance(node, dict) or not node:
        return [place]
    return [leaf for key, inner in node.items() for leaf in leaves(inner, f"{place}.{key}".lstrip("."))]


def test_the_package_holds_what_is_read_and_nothing_of_the_tests(tmp_path: Path) -> None:
    run("package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.glob("*.tgz")
    listed = subprocess.run(["tar", "-tzf", package], capture_output=True, text=True, check=True).stdout.split()
    assert {"kpo-healer/README.md", "kpo-healer/values.schema.json", "kpo-healer/files/alerts.yaml"} <= set(listed)
    assert not [name for name in listed if "/tests/" in name or "/ci/" in name or name.endswith(".gotmpl")]


def test_the_chart_says_where_it_comes_from() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert {"home", "icon", "sources", "maintainers", "keywords"} <= chart.keys()
    assert all(isinstance(value, str) for value in chart["annotations"].values())
    for key in ("artifacthub.io/links", "artifacthub.io/changes"):
        assert yaml.safe_load(chart["annotations"][key])


# --- the chart's own tests ---


def test_helm_unittest_finds_nothing_wrong() -> None:
    done = subprocess.run([helm_unittest(), CHART], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_threshold_changes_its_one_figure(tmp_path: Path) -> None:
    """And promtool takes what comes of it."""
    known = yaml.safe_load(SCHEMA.read_text())["properties"]["prometheusRule"]["properties"]["thresholds"]["properties"]
    plain, changed = (
        rules(copy.deepcopy(LEAST) | {"prometheusRule": {"enabled": True, "thresholds": thresholds}}, tmp_path)
        for thresholds in ({}, dict.fromkeys(known, 7654321))
    )
    for alert, rule in changed.items():
        assert rule["expr"].count("7654321") == (alert in known), rule["expr"]
        assert re.fullmatch(re.escape(rule["expr"]).replace("7654321", r"\d+"), plain[alert]["expr"])
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": list(changed.values())}]}))
    command = [programs().promtool, "check", "rules", tmp_path / "rules.yaml"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def rules(values: Any, folder: Path) -> dict[str, Any]:
    groups = named(objects(render(values, folder=folder)), "PrometheusRule")["spec"]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


# --- kustomize ---


def built(folder: Path) -> list[Any]:
    done = subprocess.run([kustomize(), "build", folder], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def test_the_base_is_the_plain_manifest() -> None:
    base = built(MANIFESTS)
    plain = objects((MANIFESTS / "report.yaml").read_text())
    assert sorted(base, key=spelled) == sorted(plain, key=spelled)


def spelled(document: Any) -> str:
    return json.dumps(document, sort_keys=True)


def test_the_overlay_has_the_rights_of_enforce_mode_and_a_configuration_that_is_one(tmp_path: Path) -> None:
    overlay = built(EXAMPLES / "kustomize")
    enforcing = objects((MANIFESTS / "enforce.yaml").read_text())
    for role in (one for one in enforcing if one["kind"] == "Role"):
        name, namespace = role["metadata"]["name"], role["metadata"]["namespace"]
        ours, theirs = (
            {(resource, verb) for rule in one["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
            for one in (named(overlay, "Role", name, namespace), role)
        )
        assert ours == theirs
    config = yaml.safe_load(named(overlay, "ConfigMap")["data"]["config.yaml"])
    assert config == yaml.safe_load(named(enforcing, "ConfigMap")["data"]["config.yaml"])
    Config.model_validate(config, by_alias=True, by_name=False)
    pod = named(overlay, "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "registry.example.com/kpo-healer:0.1.0"
    assert pod["volumes"][0]["configMap"]["name"] == named(overlay, "ConfigMap")["metadata"]["name"]
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump_all(overlay))
    assert conform("1.34.0", tmp_path / "overlay.yaml")["summary"]["valid"] == len(overlay)


def test_another_configuration_rolls_the_overlays_deployment(tmp_path: Path) -> None:
    """By the hash in the ConfigMap's name: a mode that is changed can't leave the old Pods as they are."""
    for folder in ("manifests", "examples/kustomize"):
        (tmp_path / folder).mkdir(parents=True)
        for file in (MANIFESTS.parent / folder).glob("*.yaml"):
            (tmp_path / folder / file.name).write_text(file.read_text())
    config = tmp_path / "examples/kustomize/config.yaml"
    before = named(built(config.parent), "Deployment")["spec"]["template"]
    config.write_text(config.read_text().replace("mode: enforce", "mode: report"))
    assert named(built(config.parent), "Deployment")["spec"]["template"] != before


# --- Argo CD, Flux, External Secrets ---


def test_their_own_schemas_know_each_field() -> None:
    """All but Flux' HelmRelease, whose CRD no Go module brings."""
    files = [EXAMPLES / name for name in ("argocd.yaml", "flux.yaml", "external-secret.yaml")]
    told = conform("1.34.0", *files, schemas=[schemas_of(crds) for crds in DELIVERY])
    wrong = [one for one in told.get("resources") or () if one["kind"] != "HelmRelease"]
    assert wrong == []
    assert told["summary"]["valid"] == 3


def test_a_field_that_does_not_exist_would_be_noticed(tmp_path: Path) -> None:
    for name, field in (("argocd", "project"), ("flux", "interval"), ("external-secret", "refreshInterval")):
        text = (EXAMPLES / f"{name}.yaml").read_text()
        wrong = re.sub(rf"^  {field}: .*$", r"\g<0>\n  unknown: 1", text, count=1, flags=re.MULTILINE)
        (tmp_path / f"{name}.yaml").write_text(wrong)
    told = conform("1.34.0", *tmp_path.glob("*.yaml"), schemas=[schemas_of(crds) for crds in DELIVERY])
    assert told["summary"]["invalid"] == 3


def values_of(name: str) -> Any:
    if name == "argocd":
        return example("argocd", "Application")["source"]["helm"]["valuesObject"]
    return example("flux", "HelmRelease")["values"]


def example(name: str, kind: str) -> Any:
    return named(objects((EXAMPLES / f"{name}.yaml").read_text()), kind)["spec"]


@pytest.mark.parametrize("name", ["argocd", "flux"])
def test_the_chart_takes_their_values(name: str, tmp_path: Path) -> None:
    documents = objects(render(values_of(name), folder=tmp_path))
    secret = example("external-secret", "ExternalSecret")
    pod = named(documents, "Deployment")["spec"]["template"]["spec"]
    (volume,) = (one for one in pod["volumes"] if one["name"] == "secret")
    assert volume["secret"]["secretName"] == secret["target"]["name"]
    asked = yaml.safe_load(named(documents, "ConfigMap")["data"]["config.yaml"])["airflows"][0]["passwordFile"]
    assert {entry["secretKey"] for entry in secret["data"]} == {asked.rpartition("/")[2]}


def test_both_take_the_chart_of_this_repository() -> None:
    application = example("argocd", "Application")["source"]
    flux = objects((EXAMPLES / "flux.yaml").read_text())
    release, source = named(flux, "HelmRelease")["spec"], named(flux, "GitRepository")
    assert application["path"] == release["chart"]["spec"]["chart"] == "deploy/chart"
    assert release["chart"]["spec"]["sourceRef"] == {"kind": source["kind"], "name": source["metadata"]["name"]}
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert application["targetRevision"] == source["spec"]["ref"]["tag"] == f"v{chart['version']}"


def test_all_sets_of_values_are_tried() -> None:
    """Each monitor is in one of them, as kubeconform knows the kinds of both."""
    kinds = {one["kind"] for values in VALUES for one in objects(render(values))}
    assert {"ServiceMonitor", "PodMonitor"} <= kinds
