"""A real Prometheus on a free port, which scrapes given targets every second and evaluates given rules.

with Prometheus.start_with(folder, [healer.url], rules=Path("alerts.yaml")) as prometheus:
    prometheus.query("sum(kpo_healer_leader)")
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from tests.lab.processes import LabError, Process, free_ports
from tests.lab.prometheus_assets import programs

Json = Any


@dataclass(frozen=True)
class Series:
    """points: epoch seconds and value."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


class Prometheus(Process):
    """One server; as a context manager it is stopped at the end."""

    def __init__(self, folder: Path, config: Path, port: int) -> None:
        args = (
            programs().prometheus,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        super().__init__("prometheus", args, folder / "prometheus.log", ready=self._says_ready, start_timeout=120)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)

    @classmethod
    def start_with(
        cls, folder: Path, targets: Sequence[str] | Mapping[str, Mapping[str, str]], *, rules: Path
    ) -> Prometheus:
        """Scrapes these URLs' `/metrics` as the job `kpo-healer`, or with the labels that each has.

        Stop it, or use it as a context manager.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        labels = targets if isinstance(targets, Mapping) else {url: {} for url in targets}
        scraped = [{"targets": [urlsplit(url).netloc], "labels": dict(own)} for url, own in labels.items()]
        document = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "kpo-healer", "static_configs": scraped}],
        }
        config = folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump(document))
        made = cls(folder, config, port)
        made.start()
        return made

    def __enter__(self) -> Prometheus:
        return self

    def stop(self, timeout: float = 10) -> int | None:
        self._client.close()
        return super().stop(timeout)

    def query(self, expression: str) -> list[float]:
        """The values of all series of a query's result now, those that are no number left out.

        Raises LabError with Prometheus's own words when it does not take the query.
        """
        result = self._get("/api/v1/query", query=expression)
        samples = [result["result"]] if result["resultType"] == "scalar" else [s["value"] for s in result["result"]]
        return [value for value in (float(text) for _, text in samples) if not math.isnan(value)]

    def history(self, expression: str, seconds: float, step: float = 1) -> list[Series]:
        """Each series of a query's result over the last seconds."""
        now = time.time()
        asked = {"query": expression, "start": f"{now - seconds:.3f}", "end": f"{now:.3f}", "step": f"{step:g}"}
        result = self._get("/api/v1/query_range", **asked)["result"]
        return [
            Series(each["metric"], tuple((float(at), float(value)) for at, value in each["values"])) for each in result
        ]

    def names(self) -> set[str]:
        """Every metric's name that any scrape has had."""
        return set(self._get("/api/v1/label/__name__/values"))

    def alerts(self) -> dict[str, str]:
        """The alerts that are pending or firing, by name, with that state."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self._get("/api/v1/alerts")["alerts"]}

    def firing(self) -> list[tuple[str, dict[str, str]]]:
        """The alerts that are firing: name and labels."""
        alerts = [alert for alert in self._get("/api/v1/alerts")["alerts"] if alert["state"] == "firing"]
        return [(alert["labels"]["alertname"], alert["labels"]) for alert in alerts]

    def unhealthy_rules(self) -> dict[str, str]:
        """The rules whose evaluation failed, with the error; those not yet evaluated are not among them."""
        rules = (rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"])
        return {rule["name"]: rule["lastError"] for rule in rules if rule["health"] == "err"}

    def _get(self, path: str, **params: str) -> Json:
        answer = self._client.get(path, params=params).json()
        if answer["status"] != "success":
            raise LabError(f"Prometheus refuses {params or path}: {answer['error']}")
        return answer["data"]

    def _says_ready(self) -> bool:
        return self._client.get("/-/ready").status_code == 200
