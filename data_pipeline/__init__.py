"""Text to tokenizer to Arrow shards to a deterministic stream of batches. Knows no trainer."""
