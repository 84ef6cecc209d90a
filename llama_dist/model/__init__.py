"""The LLaMA model: maths on tensors. Knows no rank, no engine, no environment."""
