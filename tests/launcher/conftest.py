import pytest
import yaml
from fake_run import FakeRun, run_values, write_fake_data


@pytest.fixture
def fake_run(tmp_path):
    write_fake_data(tmp_path)
    run = FakeRun(tmp_path)
    run.run_file.write_text(yaml.safe_dump(run_values(tmp_path)))
    yield run
    for process in run.started:
        process.kill()
        process.wait(10)
