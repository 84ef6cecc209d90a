"""Ranks that keep a trainer's signs of life and agree once a step as it does; one of them hangs. Computes nothing."""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from llama_dist.config import RunDirectory
from llama_dist.runtime.heartbeat import Heartbeat
from llama_dist.runtime.stacks import dump_stacks_on_signal
from llama_dist.runtime.world import World


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_lock():
    while True:  # a signal ends a sleep
        ctypes.PyDLL(None).sleep(600)


def read_data():
    time.sleep(600)


HANGS = {"stop": stop, "hold_the_lock": hold_the_lock, "read_data": read_data}


def main():
    argument = json.loads(Path(sys.argv[1]).read_text())
    world, run = World.from_environment(), RunDirectory(Path(argument["run"]))
    heartbeat = Heartbeat(run.heartbeat(world.rank), 1)
    heartbeat.beat(0, "starting")
    dump_stacks_on_signal(run.stacks(1, world.rank))
    from llama_dist.runtime.process_group import any_rank, process_group

    with process_group(world, timeout_seconds=120):
        step = 0
        while True:
            heartbeat.beat(step, "read")
            if (world.rank, step) == (argument["rank"], argument["step"]):
                HANGS[argument["hang"]]()
            any_rank(False)
            heartbeat.beat(step, "train" if step else "first step")
            time.sleep(0.05 if step else argument["first_step_seconds"])
            step += 1


if __name__ == "__main__":
    main()
