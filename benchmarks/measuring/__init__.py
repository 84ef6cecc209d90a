"""What the data benchmarks share: the corpus, turns between competitors, the machine's facts. Measures nothing."""
