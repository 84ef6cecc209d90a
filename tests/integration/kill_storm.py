"""Kills a run again and again: which process, and when. Launches again only where the supervisor was killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

import psutil

from launcher.records import process_is_alive, read_heartbeats, read_supervisor
from llama_dist.checkpoint.manifest import list_steps

VICTIMS = ("rank 0", "rank 1", "agent", "supervisor")

# What appears in the checkpoints directory in the course of a save, in this order.
AIMS = {
    "staging": lambda name, parts: name.startswith(".staging_"),
    "rank file": lambda name, parts: name.startswith(".staging_") and any(".safetensors" in part for part in parts),
    "unfinished manifest": lambda name, parts: name.startswith(".staging_") and ".manifest.json.new" in parts,
    "renamed": lambda name, parts: name.startswith("step_") and "manifest.json" not in parts,
    "manifest": lambda name, parts: name.startswith("step_") and "manifest.json" in parts,
}
WAIT_SECONDS = 180
POLL_SECONDS = 0.0005


@dataclass(frozen=True)
class Kill:
    victim: str
    aim: str
    """A key of AIMS, `training` or `starting`."""

    steps: int
    """`training`: after so many steps of the attempt."""

    seconds: float
    """So long after what was waited for."""


def draw_kills(seed, number):
    """Half of them are aimed at a save, the rest fall anywhere in training or in a start."""
    draw = random.Random(seed)
    kills = []
    for _ in range(number):
        kind = draw.choices(("save", "training", "starting"), (5, 4, 1))[0]
        kills.append(
            Kill(
                victim=draw.choices(VICTIMS, (3, 3, 2, 2))[0],
                aim=draw.choice(list(AIMS)) if kind == "save" else kind,
                steps=draw.randrange(8),
                # Aimed: at once, or inside the write, sync or rename that follows.
                seconds=draw.choice((0, draw.uniform(0, 0.01))) if kind == "save" else draw.uniform(0, 0.1),
            )
        )
    return kills


class Storm:
    """Kills one run by a list of kills, and sees it to its end."""

    def __init__(self, run, run_file):
        self.run, self.run_file = run, run_file
        self.num_launches, self.attempt = 0, 0
        self.killed, self.missed = Counter(), Counter()
        self.most_stagings = 0
        self.seen = set()
        self._launch()

    def unleash(self, kills):
        """Answers the run's exit code once it has ended by itself, all kills done."""
        for kill in kills:
            self._wait_for_attempt()
            if self._wait_for_aim(kill):
                time.sleep(kill.seconds)
            self._kill(kill)
        return self._see_through()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def output(self):
        return (self.run.path.parent / "storm.log").read_text()

    def processes_left(self):
        """Those of all attempts that still run; the kernel may take a moment to end them."""
        deadline = time.monotonic() + 20
        while left := [one for one in self.seen if process_is_alive(*one)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return left

    def _launch(self):
        self.num_launches += 1
        self.run.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.run.path.parent / "storm.log").open("a") as log:
            command = [sys.executable, "-m", "launcher", "launch", str(self.run_file)]
            self.process = subprocess.Popen(
                [*command, "--set", "cluster.num_processes_per_node=2"], stdout=log, stderr=subprocess.STDOUT
            )

    def _see_through(self):
        return self.process.wait(WAIT_SECONDS * 3)

    def _wait_for_attempt(self):
        """Wait until both ranks of an attempt that was not killed yet have given a sign of life."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            self._must_go_on(deadline)
            record = read_supervisor(self.run.supervisor)
            beats = read_heartbeats(self.run.heartbeats)
            has_begun = record and record.attempt > self.attempt and record.state == "running" and len(beats) == 2
            if has_begun and all(beat.attempt == record.attempt for beat in beats.values()):
                self.attempt = record.attempt
                self._remember(beats)
                return
            time.sleep(0.01)

    def _remember(self, beats):
        self.seen |= {(beat.pid, beat.create_time) for beat in beats.values()}
        self.seen |= {(one.pid, one.create_time()) for one in self._alive() for one in [one, *one.children()]}

    def _alive(self):
        try:
            return [psutil.Process(self.process.pid)]
        except psutil.NoSuchProcess:
            return []

    def _wait_for_aim(self, kill):
        """Wait for the instant; answers False where the attempt ended before it."""
        if kill.aim == "starting":
            return True
        deadline = time.monotonic() + WAIT_SECONDS
        first = max(list_steps(self.run.checkpoints), default=0)
        before = self._entries()
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"{kill} never came: {self.output()[-3000:]}"
            record = read_supervisor(self.run.supervisor) if random.random() < 0.02 else None
            if record and record.attempt != self.attempt:
                self.missed[kill.aim] += 1
                return False
            if kill.aim == "training":
                beats = read_heartbeats(self.run.heartbeats).values()
                if any(beat.attempt == self.attempt and beat.step >= first + kill.steps > 0 for beat in beats):
                    return True
            elif self._is_there(AIMS[kill.aim], before):
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _entries(self):
        """(name, inode, name inside) of all that lies in the checkpoints directory."""
        entries = set()
        for entry in _scan(self.run.checkpoints):
            if entry.name.startswith((".staging_", "step_")):
                inode = entry.inode()
                entries.add((entry.name, inode, ""))
                inside = _scan(entry.path)
                inside += [file for inner in inside if inner.is_dir() for file in _scan(inner.path)]
                entries |= {(entry.name, inode, inner.name) for inner in inside}
        return entries

    def _is_there(self, aim, before):
        new = {}
        for name, inode, inner in self._entries() - before:
            new.setdefault((name, inode), []).append(inner)
        return any(aim(name, parts) for (name, _), parts in new.items())

    def _kill(self, kill):
        for pid in self._pids(kill.victim):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.killed[kill.aim, kill.victim] += 1
            break
        stagings = [entry for entry in _scan(self.run.checkpoints) if entry.name.startswith(".staging_")]
        self.most_stagings = max(self.most_stagings, len(stagings))
        if kill.victim == "supervisor":
            self.process.wait(30)
            self._launch()

    def _pids(self, victim):
        if victim == "supervisor":
            return [self.process.pid]
        if victim == "agent":
            agents = [child for one in self._alive() for child in one.children()]
            return [agent.pid for agent in agents]
        beat = read_heartbeats(self.run.heartbeats).get(int(victim.split()[1]))
        is_its = beat and beat.attempt == self.attempt and process_is_alive(beat.pid, beat.create_time)
        return [beat.pid] if is_its else []

    def _must_go_on(self, deadline):
        text = self.output()
        assert self.process.poll() is None, f"the run ended with {self.process.returncode} in mid-storm: {text[-3000:]}"
        assert time.monotonic() < deadline, f"no attempt after {self.attempt}: {text[-3000:]}"


def _scan(path):
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        return []
