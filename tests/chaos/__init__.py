"""Chaos on real parts: a real Airflow, a real cluster, kpo-healer in enforce mode, and everything killed at random.

`make chaos RUNS=1000`, or `python -m tests.chaos --help`.
"""
