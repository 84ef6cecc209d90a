import pytest
import yaml
from fake_run import FakeRun, run_values


@pytest.fixture
def fake_run(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    run = FakeRun(tmp_path)
    run.run_file.write_text(yaml.safe_dump(run_values(tmp_path)))
    yield run
    for process in run.started:
        process.kill()
        process.wait(10)
