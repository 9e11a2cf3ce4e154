"""Fixtures live beside what they start."""

pytest_plugins = ["tests.lab.fixtures_kube", "tests.lab.fixtures_airflow", "tests.unit.fixtures_cli"]
