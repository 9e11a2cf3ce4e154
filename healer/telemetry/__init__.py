"""What is told: metrics, Events, findings over HTTP, logs."""
