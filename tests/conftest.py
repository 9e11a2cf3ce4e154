"""Fixtures live beside what they start."""

from pathlib import Path

_FIXTURES = ("fixtures_kube", "fixtures_airflow")

pytest_plugins = [f"tests.lab.{name}" for name in _FIXTURES if (Path(__file__).parent / f"lab/{name}.py").exists()]
