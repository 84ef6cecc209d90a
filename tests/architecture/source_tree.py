"""Reads the repository's own sources for the architecture tests: files, syntax trees, imports. Imports no package."""

import ast
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "data_pipeline", "launcher", "llama_dist")


@dataclass(frozen=True)
class ImportedModule:
    """One imported module, wherever in the file the import stands."""

    file: Path
    line: int
    module: str

    @property
    def place(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


@functools.cache
def package_files() -> tuple[Path, ...]:
    """Return every Python file of the four packages."""
    return tuple(sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py")))


@functools.cache
def all_python_files() -> tuple[Path, ...]:
    """Return the packages' files, the tests and the benchmarks."""
    others = [file for folder in ("tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    return tuple(sorted([*package_files(), *others]))


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def module_name(file: Path) -> str:
    """Return the dotted name of a package's file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> list[ImportedModule]:
    """Return all imports of a file, those inside functions and under `if TYPE_CHECKING` included."""
    return _imports_among(file, ast.walk(tree_of(file)))


def imports_at_load(file: Path) -> list[ImportedModule]:
    """Return the imports that run when the module is loaded."""
    return _imports_among(file, tree_of(file).body)


def _imports_among(file: Path, nodes: Iterable[ast.AST]) -> list[ImportedModule]:
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [ImportedModule(file, node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute_base(file, node)
            found += [ImportedModule(file, node.lineno, _imported_name(base, alias.name)) for alias in node.names]
    return found


def _absolute_base(file: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _imported_name(base: str, name: str) -> str:
    """Tell `from package import module` from `from module import name`; of other libraries keep the name as well."""
    if base.split(".", maxsplit=1)[0] not in PACKAGES:
        return f"{base}.{name}"
    path = ROOT / base.replace(".", "/") / name
    return f"{base}.{name}" if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file() else base
