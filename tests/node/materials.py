"""What the image consists of: its Python packages and Debian's, with their licences, as a CycloneDX document."""

from __future__ import annotations

import json
from typing import Any, Final

from healer import __version__

Json = Any

INVENTORY: Final = r"""
import json, platform, re, subprocess
from importlib.metadata import distributions

def python(dist):
    said = dist.metadata
    classified = [line.split(" :: ")[-1] for line in said.get_all("Classifier", []) if line.startswith("License ::")]
    licences = [said.get("License-Expression"), said.get("License"), *classified]
    return said["Name"], dist.version, [text for text in licences if text and len(text) < 60][:1]

def debian(line):
    name, version = line.split()
    try:
        with open(f"/usr/share/doc/{name}/copyright", errors="replace") as file:
            text = file.read()
    except OSError:
        return name, version, []
    names = re.findall(r"^License:[ \t]*(\S+(?: (?:and|or|with) \S+)*)$", text, re.MULTILINE)
    said = {word.strip(",") for word in names}
    return name, version, sorted(said) or [f"as in /usr/share/doc/{name}/copyright"]

query = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n"]
lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
found = {"pypi": [python(one) for one in distributions()], "debian": [debian(line) for line in lines]}
print(json.dumps({"python": platform.python_version(), **found}))
"""
"""To be run by the image's own Python: name, version and licences of each package, as the packages themselves tell."""

SPDX: Final = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
}
"""Older words for what SPDX names."""

ALLOWED: Final = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "PSF-2.0"})
"""The licences of all Python packages in the image; MPL-2.0 is certifi's list of authorities."""


def document(inventory: Json) -> Json:
    """The list of materials in CycloneDX 1.6."""
    libraries = [_component(f"pkg:pypi/{name.lower()}", name, *rest) for name, *rest in inventory["pypi"]]
    packages = [_component(f"pkg:deb/debian/{name}", name, *rest) for name, *rest in inventory["debian"]]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "kpo-healer", "version": __version__}},
        "components": sorted(libraries + packages, key=lambda one: one["purl"]),
    }


def _component(url: str, name: str, version: str, licences: list[str]) -> Json:
    purl = f"{url}@{version}"
    told = [{"license": {"name": SPDX.get(text, text)}} for text in licences]
    return {"type": "library", "bom-ref": purl, "purl": purl, "name": name, "version": version, "licenses": told}


def licences(inventory: Json) -> dict[str, list[str]]:
    """The parts of each Python package's licence, in SPDX's words."""
    return {name: _parts(said) for name, _, said in inventory["pypi"]}


def _parts(said: list[str]) -> list[str]:
    return [part for text in said for part in SPDX.get(text, text).replace(" OR ", " AND ").split(" AND ")]


def read(out: str) -> Json:
    """What INVENTORY printed."""
    return json.loads(out)
