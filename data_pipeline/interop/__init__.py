"""Doors to other tools: datasets of other programs read into ours, and ours for a PyTorch DataLoader."""
