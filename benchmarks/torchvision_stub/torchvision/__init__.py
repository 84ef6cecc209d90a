"""Stands for torchvision; what mosaicml-streaming imports from it, and no benchmark calls."""
