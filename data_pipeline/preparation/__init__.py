"""From documents to Arrow shards and their manifest: plan, tasks, workers, files. Reads nothing back for training."""
