"""What docs/data.md tells the reader to type works, in the order of the page."""

import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from typer.testing import CliRunner

from data_pipeline.cli import data_app, tokenizer_app

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_commands_and_the_python_of_the_page_run(tmp_path, monkeypatch):
    shutil.copytree(Path(sysconfig.get_paths()["stdlib"]) / "asyncio", tmp_path / "corpus")
    shutil.copytree(PAGE.parents[1] / "configs", tmp_path / "configs")
    # The run file of the page reads what the README prepares; here that is the page's own dataset.
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corpus").symlink_to(tmp_path / "datasets" / "code")
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        program, group, *arguments = shlex.split(command)
        if program != "llama-dist":
            subprocess.run(["bash", "-c", command], check=True)
            continue
        result = CliRunner().invoke({"tokenizer": tokenizer_app, "data": data_app}[group], arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception}"
    (python,) = blocks("python")
    names = {}
    exec(python, names)
    assert [batch.tokens.shape for batch in names["batches"]] == [(4, 256)] * 2
