"""Every config file loads, every field is documented, the reference page is what the models say."""

import pytest
from source_tree import ROOT

from data_pipeline.config import parse_config, read_yaml
from llama_dist.config import ModelConfig, load_cluster_config, load_run_config
from llama_dist.config.reference import ROOTS, reference_page, sections

REGENERATE = ".venv/bin/python -m llama_dist.config.reference > docs/config.md"


def test_every_field_says_what_it_is():
    undocumented = [
        row.path or section.path
        for _, _, model in ROOTS
        for section in sections(model)
        for row in section.rows
        if len(row.documentation) < 10 or not row.documentation.endswith(".")
    ]
    assert not undocumented, f"write a docstring, ending with a full stop, under: {undocumented}"


def test_a_quantity_names_its_unit():
    """A whole number's text or name says of what: a reader must not guess tokens for sequences."""
    units = (
        "token",
        "byte",
        "second",
        "sequence",
        "step",
        "layer",
        "head",
        "stage",
        "process",
        "port",
        "seed",
        "width",
        "word",
    )
    units += (
        "sample",
        "row",
        "attempt",
        "checkpoint",
        "scale",
        "micro-batch",
        "worker",
        "document",
        "thread",
        "byte",
        "task",
        "node",
        "minute",
    )
    faults = [
        row.path
        for _, _, model in ROOTS
        for section in sections(model)
        for row in section.rows
        if row.type.startswith("integer")
        and not any(unit in f"{row.path} {row.documentation}".lower() for unit in units)
    ]
    assert not faults, faults


def test_the_reference_page_is_what_the_models_say():
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == reference_page(), f"docs/config.md is stale: {REGENERATE}"


def test_the_reference_names_nested_and_listed_fields():
    paths = {row.path for section in sections(ROOTS[0][2]) for row in section.rows}
    assert {"name", "model.num_layers", "data.sources.N.weight", "supervision.stop_grace_seconds"} <= paths


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*")), ids=lambda path: path.name)
def test_every_file_of_configs_loads(path):
    if path.is_dir():
        assert path.name in ("model", "run", "cluster") and path.parent.name == "configs", "an unknown kind of config"
        return
    assert path.suffix == ".yaml"
    kind = path.parent.name
    if kind == "run":
        assert load_run_config(path).name
    elif kind == "cluster":
        assert load_cluster_config(path).backend
    else:
        assert parse_config(ModelConfig, read_yaml(path), where=str(path)).num_parameters > 0
