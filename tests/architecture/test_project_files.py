"""The repository's own papers: dependencies with reasons, a README whose map is the tree, links that lead somewhere."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from source_tree import PACKAGES, ROOT

DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def tracked_files() -> list[Path]:
    """Return what git would commit; where there is no git, the whole tree is taken."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        return [
            path for path in ROOT.rglob("*") if path.is_file() and not path.relative_to(ROOT).parts[0].startswith(".")
        ]
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_every_direct_dependency_has_its_reason_beside_it():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    requirements = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    assert len(requirements) > 10
    for requirement in requirements:
        assert re.search(rf'"{re.escape(requirement)}",? *# *\S.{{4,}}', text), (
            f"say in pyproject.toml why: {requirement}"
        )


def test_the_packages_are_listed_by_name():
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(name.rstrip("*") for name in include) == sorted(PACKAGES)


def test_the_top_level_is_what_the_design_fixed():
    """A new folder or file at the top costs a thought."""
    allowed = {
        *PACKAGES, "configs", "tests", "docs", "benchmarks", ".ci",
        "pyproject.toml", "README.md", "Makefile", "LICENSE", "SECURITY.md", ".gitignore",
    }  # fmt: skip
    found = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert found <= allowed, f"not in the design: {found - allowed}"


def test_the_map_in_the_readme_is_the_tree():
    """Each row of the README's map exists, and each folder of the top and of the trainer has its row."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    mapped = {path.rstrip("/") for path in re.findall(r"^\| *`([\w./-]+/)` *\|", readme, flags=re.MULTILINE)}
    folders = {path.relative_to(ROOT).parent for path in tracked_files() if path.relative_to(ROOT).parent != Path()}
    needed = {folder.parts[0] for folder in folders} - {".ci"}
    needed |= {str(folder) for folder in folders if folder.parts[0] == "llama_dist" and len(folder.parts) == 2}
    assert needed <= mapped, f"add to the README's map: {sorted(needed - mapped)}"
    gone = sorted(path for path in mapped if not (ROOT / path).is_dir())
    assert not gone, f"the README's map names folders that are not there: {gone}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_in_the_documents_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"


def test_the_license_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"
