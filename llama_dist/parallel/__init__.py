"""How a model is cut over ranks: the engines over DeepSpeed, which is imported nowhere else."""
