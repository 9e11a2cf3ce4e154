"""`python -m deploy.generate`: what in this folder is made of something else.

The schema of the chart's `config` comes from the configuration's own models, the plain manifests come from the chart,
and its README from its template and the comments of its values.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from healer.config.schema import json_schema
from tests.lab.chart_assets import helm, helm_docs

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "chart"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
MANIFESTS = DEPLOY / "manifests"

_OF_HELM = re.compile(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by|# Source): .*\n", re.MULTILINE)
_BLANK_END = re.compile(r"\s*$", re.MULTILINE)


def main() -> None:
    """Write all of them anew."""
    SCHEMA.write_text(values_schema())
    README.write_text(readme())
    for values in sorted(MANIFESTS.glob("*.values.yaml")):
        target(values).write_text(manifest(values))


def values_schema() -> str:
    """Return values.schema.json with its `config` as the models have it; all else in it is written by hand."""
    schema: dict[str, Any] = json.loads(SCHEMA.read_text())
    config = json_schema()
    # The chart's own default is an empty list, which its templates refuse with a better sentence.
    config.pop("required")
    config["properties"]["airflows"].pop("minItems")
    schema["properties"]["config"] = config
    return json.dumps(schema, indent=2) + "\n"


def readme() -> str:
    """Return the chart's README with the table of its values."""
    command = [str(helm_docs()), "--dry-run", "--chart-search-root", str(CHART), "--sort-values-order", "file"]
    done = subprocess.run(  # noqa: S603
        [*command, "--skip-version-footer", "--log-level", "error"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip() + "\n"


def target(values: Path) -> Path:
    """Return the manifest that these values are for."""
    return values.with_name(values.name.replace(".values", ""))


def manifest(values: Path) -> str:
    """Return what the chart makes of these values, in the namespace kpo-healer, without what tells of Helm."""
    command = [
        str(helm()),
        "template",
        "kpo-healer",
        str(CHART),
        "--namespace",
        "kpo-healer",
        "--kube-version",
        "1.36.0",
    ]
    done = subprocess.run([*command, "--values", str(values)], capture_output=True, text=True, check=True)  # noqa: S603
    text = _OF_HELM.sub("", done.stdout)
    text = _BLANK_END.sub("", text) + "\n"
    return f"# Made of the Helm chart by `make manifests`, with {values.name}.\n{text}"


if __name__ == "__main__":
    main()
