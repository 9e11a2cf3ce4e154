"""The lab's Airflow, whose REST API containers can reach too."""

from __future__ import annotations

from typing import Final

from tests.lab.airflow import Airflow, Component
from tests.node.cluster import ADDRESS

PATIENCE: Final = 300.0
"""Seconds for each part of Airflow to start: on two cores with thirty at work, its API server took two minutes."""


class NodeAirflow(Airflow):
    """pods_url: of the REST API, as Pods see it."""

    @property
    def pods_url(self) -> str:
        return self.url.replace("127.0.0.1", ADDRESS)

    def _component(self, name: str) -> Component:
        component = super()._component(name)
        component.start_timeout = PATIENCE
        component.args = ["0.0.0.0" if word == "127.0.0.1" else word for word in component.args]
        return component
