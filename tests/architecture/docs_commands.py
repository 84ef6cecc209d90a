"""Finds the commands that the documents show: each fenced block of `bash`, `sh` or `python`. Runs nothing.

Output, file trees and templates belong into fences without a language, or of another one.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from source_tree import ROOT

_FENCE = re.compile(r"^```(?P<language>bash|sh|python)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class DocumentCommand:
    """One command of a document: a shell line, or a whole Python block."""

    document: Path
    line: int
    is_python: bool
    text: str

    @property
    def place(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}: {self.text.splitlines()[0]}"


def documents() -> list[Path]:
    """Return the README and the pages of docs/, the README first: later pages may build on what it did."""
    return [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.is_file()]


def commands_of(document: Path) -> list[DocumentCommand]:
    """Return the commands in the order of the document."""
    text = document.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start("body")) + 1
        if fence["language"] == "python":
            found.append(DocumentCommand(document, line, True, fence["body"]))
        else:
            found += [
                DocumentCommand(document, line + offset, False, command)
                for offset, command in _shell_lines(fence["body"])
            ]
    return found


def _shell_lines(body: str) -> list[tuple[int, str]]:
    """Join continued lines, drop comments, and take away a prompt and the path of the virtual environment."""
    lines, pending, started = [], "", 0
    for offset, raw in enumerate(body.splitlines()):
        line = raw.strip().removeprefix("$ ")
        if not pending:
            started = offset
        pending += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        command = re.sub(r"(^|\s)#.*", "", pending).strip().replace(".venv/bin/", "")
        if command:
            lines.append((started, command))
        pending = ""
    return lines
