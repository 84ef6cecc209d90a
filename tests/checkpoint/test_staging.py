"""The staged copy of the state: a safetensors file in memory, taken at one instant, and no second copy beside it."""

import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from llama_dist.checkpoint.host_memory import check_staging_fits
from llama_dist.checkpoint.manifest import CheckpointError, step_directory
from llama_dist.checkpoint.rank_file import lay_out
from llama_dist.checkpoint.save_group import SaveGroup
from llama_dist.checkpoint.staging import StagingBuffer
from llama_dist.checkpoint.transaction import Contents
from llama_dist.checkpoint.verify import verify_checkpoint
from llama_dist.checkpoint.writer import CheckpointWriter
from llama_dist.config import ConfigError
from llama_dist.parallel.engine import STATES, StatePartition


class OneTensor:
    """An engine that holds one large parameter."""

    def __init__(self, num_elements):
        self.tensors = {state: torch.ones(num_elements) for state in STATES}

    def partitions(self):
        yield StatePartition("weight", (self.tensors["fp32"].numel(),), 0, self.tensors)


def writer_of(checkpoints, *, group=None, after=lambda *_: [], is_asynchronous=True):
    return CheckpointWriter(checkpoints, group or SaveGroup.alone(), after, is_asynchronous=is_asynchronous)


def read(checkpoints, step=1):
    return safetensors.torch.load_file(step_directory(checkpoints, step) / "rank_00000.safetensors")


@pytest.mark.parametrize("sizes", [[], [1], [3, 1, 10_000_000]])
def test_the_image_is_a_file_that_safetensors_reads(sizes):
    layout = lay_out((f"tensor {number} \u00e9", size) for number, size in enumerate(sizes))
    tensors = [torch.randn(size) for size in sizes]
    buffer = StagingBuffer(layout)
    buffer.warm(torch.device("cpu"))
    for _ in range(2):
        buffer.snapshot(tensors)
        content = b"".join(buffer.chunks())
        assert len(content) == layout.num_bytes and len(layout.header) % 64 == 0
        read = safetensors.torch.load(content)
        assert len(read) == len(sizes)
        for slot, tensor in zip(layout.slots, tensors, strict=True):
            assert torch.equal(read[slot.key], tensor)
        tensors = [tensor + 1 for tensor in tensors]


def test_working_precisions_are_saved_as_fp32():
    buffer = StagingBuffer(lay_out([("a", 4)]))
    buffer.snapshot([torch.tensor([[1.5, 2], [3, 4]], dtype=torch.bfloat16)])
    assert safetensors.torch.load(b"".join(buffer.chunks()))["a"].tolist() == [1.5, 2, 3, 4]


def test_what_is_trained_while_a_save_is_written_is_not_in_it(tmp_path, plain_engine, progress):
    may_write = threading.Event()

    def gather_when_allowed(value):
        assert may_write.wait(30)
        return [value]

    group = replace(SaveGroup.alone(), gather=gather_when_allowed)
    engine = plain_engine(seed=1)
    may_write.set()
    writer = writer_of(tmp_path, group=group)
    writer.prepare(engine)
    may_write.clear()
    before = {key: tensor.clone() for key, tensor in engine.state.items()}
    writer.begin(engine, Contents(progress(1), {}, b""))
    for tensor in engine.state.values():
        tensor.add_(1)
    assert writer.is_writing and writer.seconds_left() > 0 and writer.poll() is None
    assert not list(tmp_path.iterdir()), "nothing is written yet"
    may_write.set()
    assert writer.wait().step == 1
    assert not writer.is_writing and writer.seconds_left() == 0 and writer.last_seconds > 0
    assert torch.equal(read(tmp_path)["norm.weight:exp_avg:0"], before["norm.weight", "exp_avg"])


def test_with_and_without_a_staged_copy_the_files_are_the_same(tmp_path, plain_engine, progress):
    for is_asynchronous in (True, False):
        writer = writer_of(tmp_path / str(is_asynchronous), is_asynchronous=is_asynchronous)
        writer.begin(plain_engine(seed=1), Contents(progress(1), {}, b"any"))
        assert writer.wait().alerts == []
    staged, live = (step_directory(tmp_path / name, 1) for name in ("True", "False"))
    assert verify_checkpoint(staged) == []
    assert all((staged / path.name).read_bytes() == path.read_bytes() for path in live.iterdir())


def test_a_save_takes_the_memory_of_one_copy_and_without_one_none(tmp_path, progress):
    engine = OneTensor(10_000_000)
    num_bytes = 3 * 4 * 10_000_000
    for is_asynchronous, most_bytes in ((False, 0.2 * num_bytes), (True, 1.1 * num_bytes)):
        writer = writer_of(tmp_path, is_asynchronous=is_asynchronous)
        before = resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        for step in (1, 2):
            writer.begin(engine, Contents(progress(step), {}, b""))
            writer.wait()
        assert resident_bytes("VmHWM") - before < most_bytes, is_asynchronous


def resident_bytes(field):
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def test_no_error_of_the_thread_vanishes_and_the_next_save_works(tmp_path, plain_engine, progress):
    writer = writer_of(tmp_path / "file" / "checkpoints")
    (tmp_path / "file").write_text("in the way")
    writer.begin(plain_engine(seed=1), Contents(progress(1), {}, b""))
    with pytest.raises(CheckpointError, match=r"rank 0: .*File exists"):
        writer.wait()
    (tmp_path / "file").unlink()
    writer.begin(plain_engine(seed=1), Contents(progress(1), {}, "no bytes"))
    with pytest.raises(TypeError):
        writer.wait()
    writer.begin(plain_engine(seed=1), Contents(progress(1), {}, b""))
    assert writer.wait().step == 1


def test_what_fails_after_the_checkpoint_exists_is_an_alert(tmp_path, plain_engine, progress):
    def refuse(directory, manifest):
        assert verify_checkpoint(directory) == [] and manifest.tensors
        raise ValueError("the store is away")

    writer = writer_of(tmp_path, after=refuse)
    writer.begin(plain_engine(seed=1), Contents(progress(1), {}, b""))
    assert writer.wait().alerts == ["ValueError: the store is away"]


def test_too_little_memory_for_the_copy_is_refused_with_the_numbers():
    check_staging_fits(1 << 20, SaveGroup.alone())
    three = replace(SaveGroup.alone(), gather=lambda _: [["a", 2**50, 2**40], ["a", 2**50, 2**41], ["b", 1, 2]])
    with pytest.raises(ConfigError, match=r"host a needs 2097152\.0 GiB for its 2 ranks and has 1024\.0 GiB") as error:
        check_staging_fits(2**50, three)
    assert "checkpoint.asynchronous: false" in str(error.value) and "host b" not in str(error.value)
    with pytest.raises(ConfigError, match=f"host {SaveGroup.alone().host} needs"):
        check_staging_fits(2**50, SaveGroup.alone())
