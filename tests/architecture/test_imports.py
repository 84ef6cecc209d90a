"""Imports point one way: the design's table holds for every import of every file, lazy ones included."""

import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import import_table
import source_tree
from source_tree import ROOT, ImportedModule, imports_of, module_name, package_files


def is_within(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def rule_of(module: str, rules: dict[str, tuple[str, ...]]) -> str | None:
    return max((part for part in rules if is_within(module, [part])), key=len, default=None)


def why_illegal(importer: str, imported: ImportedModule) -> str | None:
    """Return what is wrong with an import, or None."""
    forbidden_part = rule_of(importer, import_table.FORBIDDEN)
    if forbidden_part and is_within(imported.module, import_table.FORBIDDEN[forbidden_part]):
        return f"{forbidden_part} must not import {imported.module}"
    if imported.module.split(".")[0] in sys.stdlib_module_names:
        return None
    part = rule_of(importer, import_table.ALLOWED)
    assert part is not None, f"{importer} has no line in tests/architecture/import_table.py"
    allowed = (*import_table.EVERYWHERE, *import_table.ALLOWED[part])
    return None if is_within(imported.module, allowed) else f"{part} must not import {imported.module}"


def faults_of(files: Iterable[Path]) -> list[str]:
    return [
        f"{imported.place}: {fault}"
        for file in files
        for imported in imports_of(file)
        if (fault := why_illegal(module_name(file), imported))
    ]


def test_every_import_is_in_the_table():
    faults = faults_of(package_files())
    assert not faults, "\n".join(faults)


def test_the_table_catches_a_lazy_a_relative_and_an_aliased_import(tmp_path, monkeypatch):
    """The check itself can fail: a made-up tree with one illegal import of each kind."""
    monkeypatch.setattr(source_tree, "ROOT", tmp_path)
    file = tmp_path / "llama_dist" / "model" / "made_up.py"
    file.parent.mkdir(parents=True)
    (tmp_path / "llama_dist" / "train.py").write_text("")
    file.write_text(
        "import torch\n"
        "def lazy():\n    import deepspeed.comm as hidden\n"
        "from .. import train\n"
        "from torch import distributed\n"
        "import torch.distributed as dist\n"
        "from os import environ\n"
    )
    assert {fault.partition(" must not import ")[2] for fault in faults_of([file])} == {
        "deepspeed.comm",
        "llama_dist.train",
        "torch.distributed",
        "os.environ",
    }
    assert len(faults_of([file])) == 5


def test_every_line_of_the_table_names_something_that_exists():
    modules = {module_name(file) for file in package_files()}
    missing = [part for part in import_table.ALLOWED if part not in modules]
    assert not missing, f"remove from tests/architecture/import_table.py: {missing}"


def test_each_heavy_library_is_imported_in_one_place():
    for library, home in import_table.SOLE_IMPORTERS.items():
        places = [
            imported.place
            for file in package_files()
            if not is_within(module_name(file), [home])
            for imported in imports_of(file)
            if is_within(imported.module, [library])
        ]
        assert not places, f"{library} belongs to {home} alone, but is imported at {places}"


def test_mlflow_is_one_files_and_torch_is_two_files_of_the_data_pipeline():
    def files_importing(library: str, package: str) -> set[str]:
        files = [file for file in package_files() if is_within(module_name(file), [package])]
        return {module_name(file) for file in files for one in imports_of(file) if is_within(one.module, [library])}

    assert files_importing("mlflow", "llama_dist") == {"llama_dist.metrics.mlflow_tracker"}
    assert files_importing("torch", "data_pipeline") == {
        "data_pipeline.torch_batch",
        "data_pipeline.interop.torch_dataset",
    }


def test_nothing_that_the_launcher_loads_is_heavy():
    """Every module of launcher, cluster and config is really imported, and nothing of the trainer comes with it."""
    light = (
        "launcher",
        "cluster",
        "llama_dist.config",
        "llama_dist.checkpoint.manifest",
        "llama_dist.cli",
        "data_pipeline.cli",
    )
    modules = [module_name(file) for file in package_files() if is_within(module_name(file), light)]
    modules = [module for module in modules if not module.endswith("__main__")]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {import_table.TOO_HEAVY_TO_LAUNCH!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_no_modules_import_each_other_in_a_circle():
    """Imports at load alone: a lazy one breaks no start."""
    graph = {module_name(file): set[str]() for file in package_files()}
    for file in package_files():
        for imported in source_tree.imports_at_load(file):
            if imported.module in graph and imported.module != module_name(file):
                graph[module_name(file)].add(imported.module)
    removed: set[str] = set()
    while free := [module for module, needs in graph.items() if module not in removed and needs <= removed]:
        removed.update(free)
    assert not graph.keys() - removed, f"these import each other: {sorted(graph.keys() - removed)}"


def test_every_imported_library_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {
        requirement.replace("PyYAML", "yaml").split(">")[0].split("[")[0].lower()
        for requirement in project["dependencies"]
    }
    names |= {"pydantic_core"}  # a part of pydantic
    used = {one.module.split(".")[0] for file in package_files() for one in imports_of(file)}
    undeclared = {name for name in used if name not in sys.stdlib_module_names and name not in source_tree.PACKAGES}
    assert undeclared <= names, f"not in pyproject.toml: {undeclared - names}"
