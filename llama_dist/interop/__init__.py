"""Checkpoints of other programs: Hugging Face's LLaMA, out and in; DeepSpeed's own, in."""
