"""What is asked of Airflow and what the answers mean: lists, lookups, identity, absence."""
