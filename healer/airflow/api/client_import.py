"""What the healer uses of Airflow's generated client: configuration and transport, and none of its models.

Imported with the first request: whoever asks nothing need not wait for it.
"""

from __future__ import annotations

from healer.import_stubs import stub_packages

with stub_packages("airflow_client.client", "airflow_client.client.models"):
    from airflow_client.client.api_client import ApiClient
    from airflow_client.client.configuration import Configuration
    from airflow_client.client.exceptions import OpenApiException

__all__ = ["ApiClient", "Configuration", "OpenApiException"]
