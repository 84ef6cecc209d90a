"""Loss on held-out text."""
