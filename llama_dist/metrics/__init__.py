"""The append-only spool of a run's metrics, and its way to MLflow."""
