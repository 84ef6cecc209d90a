"""Topology-free checkpoints: ranges of flattened tensors and a manifest that is written last."""
