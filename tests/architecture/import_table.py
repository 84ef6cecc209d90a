"""Which part of the project may import what. The design's table, as data; `test_imports.py` enforces it.

A name allows itself and everything below it. The standard library is open to all, but for the modules of FORBIDDEN.
"""

# Open to every part: what an exit code means, and the errors that a person is shown.
EVERYWHERE = ("data_pipeline.config", "llama_dist.exit_codes")

# The most specific part that a module's name starts with decides.
ALLOWED: dict[str, tuple[str, ...]] = {
    "cluster": ("cluster",),
    # Part of the probe, a program on a node: loads torch where all-reduces are measured, and not before.
    "cluster.probe.collective": ("cluster", "torch"),
    "data_pipeline": (
        "data_pipeline",
        "numpy",
        "pyarrow",
        "datasets",
        "sentencepiece",
        "xxhash",
        "fsspec",
        "pydantic",
        "rich",
    ),
    "data_pipeline.cli": ("data_pipeline", "typer", "rich"),
    "data_pipeline.config": ("pydantic", "pydantic_core", "yaml"),
    # For people who want a DataLoader; the stream itself does without torch.
    "data_pipeline.interop.torch_dataset": ("data_pipeline", "numpy", "torch"),
    "data_pipeline.torch_batch": ("data_pipeline", "numpy", "torch"),
    "launcher": ("launcher", "cluster", "llama_dist.config", "llama_dist.checkpoint.manifest", "psutil", "rich"),
    "launcher.cli": (
        "launcher",
        "data_pipeline.cli",
        "llama_dist.cli",
        "llama_dist.config",
        "llama_dist.interop.import_model",
        "typer",
    ),
    "launcher.lab.cli": ("launcher.lab", "typer"),
    "launcher.edge": ("launcher", "llama_dist.config", "typer"),
    "llama_dist": (),
    "llama_dist.checkpoint": (
        "llama_dist.checkpoint",
        "llama_dist.config",
        "llama_dist.parallel.engine",
        "llama_dist.parallel.grid",
        "llama_dist.runtime",
        "fsspec",
        "numpy",
        "safetensors",
        "torch",
        "xxhash",
    ),
    "llama_dist.checkpoint.disk": ("xxhash",),
    # The launcher reads manifests: nothing here may pull in torch.
    "llama_dist.checkpoint.manifest": (
        "llama_dist.checkpoint.disk",
        "llama_dist.checkpoint.manifest_values",
        "llama_dist.checkpoint.regular_file",
        "llama_dist.checkpoint.tensor_file",
        "xxhash",
        "pydantic",
    ),
    "llama_dist.checkpoint.manifest_values": (),
    "llama_dist.checkpoint.regular_file": ("xxhash",),
    "llama_dist.checkpoint.tensor_file": ("llama_dist.checkpoint.regular_file",),
    "llama_dist.cli": (
        "llama_dist.checkpoint",
        "llama_dist.config",
        "llama_dist.generation",
        "llama_dist.interop",
        "typer",
    ),
    "llama_dist.config": ("llama_dist.config", "pydantic", "pydantic_core"),
    "llama_dist.generation": (
        "llama_dist.generation",
        "llama_dist.checkpoint",
        "llama_dist.config",
        "llama_dist.model",
        "llama_dist.runtime",
        "data_pipeline",
        "torch",
        "numpy",
    ),
    "llama_dist.interop": (
        "llama_dist.interop",
        "llama_dist.checkpoint",
        "llama_dist.config",
        "llama_dist.model",
        "llama_dist.parallel.engine",
        "llama_dist.parallel.scalars",
        "data_pipeline.durable_file",
        "data_pipeline.tokenizer",
        "safetensors",
        "torch",
    ),
    "llama_dist.metrics": ("llama_dist.metrics", "llama_dist.config", "psutil"),
    "llama_dist.metrics.mlflow_tracker": ("llama_dist.metrics", "mlflow"),
    "llama_dist.model": ("llama_dist.model", "llama_dist.config", "torch"),
    "llama_dist.optim": ("llama_dist.optim", "llama_dist.config", "torch"),
    "llama_dist.parallel": ("llama_dist.parallel", "llama_dist.model", "llama_dist.config", "torch", "deepspeed"),
    "llama_dist.runtime": ("llama_dist.runtime", "llama_dist.config", "torch", "psutil"),
    "llama_dist.train": (
        "llama_dist.train",
        "llama_dist.checkpoint",
        "llama_dist.config",
        "llama_dist.metrics",
        "llama_dist.model",
        "llama_dist.optim",
        "llama_dist.parallel",
        "llama_dist.runtime",
        "data_pipeline",
        "numpy",
        "torch",
    ),
}

# Taken out of what ALLOWED gives.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    # The model is mathematics: it knows no rank and no environment, so that any engine can run it.
    "llama_dist.model": ("torch.distributed", "os", "socket", "subprocess"),
    # The loop asks engines through the protocol, and reaches MLflow only through the spool.
    "llama_dist.train": (
        "llama_dist.metrics.ship",
        "llama_dist.metrics.shipment",
        "llama_dist.metrics.mlflow_tracker",
        "data_pipeline.cli",
    ),
}

# Modules of which one file, or one package, holds every import.
SOLE_IMPORTERS: dict[str, str] = {
    "deepspeed": "llama_dist.parallel",
    "mlflow": "llama_dist.metrics.mlflow_tracker",
    "yaml": "data_pipeline.config.yaml_file",
    "datasets": "data_pipeline",
    "sentencepiece": "data_pipeline",
}

# What no process of the launcher may load: it must start in a moment, and survive what the trainer dies of.
TOO_HEAVY_TO_LAUNCH = ("torch", "deepspeed", "mlflow", "datasets", "pyarrow", "transformers", "numpy")
