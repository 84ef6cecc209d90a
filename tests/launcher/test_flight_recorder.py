"""The protocol of NCCL's recorder, with a process in the part of torch's DumpPipe. Needs no GPU."""

import os
import threading
import time
from pathlib import Path

from cluster.environment import as_mapping, worker_environment
from cluster.facts import Gpu, MachineFacts
from launcher.flight_recorder import ask_recorders, dump_path, wait_for_dumps


def be_a_recorder(stem, rank):
    """Do as ProcessGroupNCCL.hpp's DumpPipe: make a pipe, look into it now and then, write the dump when asked."""
    pipe = f"{stem}{rank}.pipe"
    os.mkfifo(pipe, 0o600)
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def listen():
        while not os.read(descriptor, 128):
            time.sleep(0.02)
        with Path(f"{stem}{rank}").open("wb") as dump:
            for _ in range(3):
                dump.write(b"what it waited for")
                dump.flush()
        os.close(descriptor)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    return thread


def stem_in_the_environment(logs):
    facts = MachineFacts("node1", 8, 1 << 36, (Gpu(0, "H100", 1 << 36),))
    variables = as_mapping(worker_environment(facts, 1, logs, {}))
    assert variables["TORCH_FR_DUMP_TEMP_FILE"] == variables["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"]
    return variables["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"]


def test_recorders_that_listen_write_their_dump_and_the_others_are_not_waited_for(tmp_path):
    stem = stem_in_the_environment(tmp_path)
    dump_path(tmp_path, 1).write_bytes(b"an older dump")
    recorders = [be_a_recorder(stem, rank) for rank in (0, 1)]
    os.mkfifo(f"{stem}2.pipe", 0o600)  # its process is gone: nobody reads
    (tmp_path / "collectives_rank_3.pipe").write_bytes(b"")  # no pipe at all
    asked = ask_recorders(tmp_path, range(5))
    assert sorted(asked) == [0, 1]
    dumps = wait_for_dumps(tmp_path, asked, time.monotonic() + 10)
    assert dumps == {rank: dump_path(tmp_path, rank) for rank in (0, 1)}
    assert all(path.read_bytes() == b"what it waited for" * 3 for path in dumps.values())
    assert (tmp_path / "collectives_rank_3.pipe").read_bytes() == b""
    for thread in recorders:
        thread.join(5)


def test_a_recorder_that_never_writes_costs_the_deadline_and_no_more(tmp_path):
    began = time.monotonic()
    assert wait_for_dumps(tmp_path, {0: (0, 0)}, began + 0.3) == {}
    assert time.monotonic() - began < 2
