"""Prints the routes of the plugin's app, as Airflow's own FastAPI has them: path and methods, a line each."""

from fastapi.routing import APIRoute
from kpo_healer_airflow.server import make_app

for route in make_app().routes:
    methods = ",".join(sorted(route.methods)) if isinstance(route, APIRoute) else type(route).__name__
    print(route.path, methods)
