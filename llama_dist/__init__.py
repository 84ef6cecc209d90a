"""The trainer: config, model, engine, optimizer, checkpoint, metrics, evaluation, generation."""
