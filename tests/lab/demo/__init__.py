"""`make demo`: real orphans of a real Airflow on a real API server, found and healed, and nothing else touched."""

from tests.lab.demo.story import main

__all__ = ["main"]
