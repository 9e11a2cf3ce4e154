"""One exchange with Airflow's API server: client, transport, credentials, schema, refusals."""
