"""Two checkpoints are compared by what they hold, and not by how it is cut into files."""

import json
import subprocess
import sys

import torch

from llama_dist.checkpoint.compare import compare_checkpoints
from llama_dist.checkpoint.save import write_checkpoint
from llama_dist.parallel.engine import STATES


def write(directory, progress, changes=()):
    tensors = {(name, state): torch.full((4, 3), 1.5) for name in ("a", "b") for state in STATES}
    for key, value in changes:
        tensors[key] = value
    whole = ((name, state, tensor) for (name, state), tensor in tensors.items())
    return write_checkpoint(directory, progress(3), whole, scalars={}, tokenizer=b"", states=STATES)


def test_equal_bits_are_equal_and_one_element_is_named(tmp_path, progress):
    first, same = write(tmp_path / "1", progress), write(tmp_path / "2", progress)
    assert compare_checkpoints(first, same).equal
    changed = torch.full((4, 3), 1.5)
    changed[2, 1] = 1.75
    comparison = compare_checkpoints(first, write(tmp_path / "3", progress, [(("b", "exp_avg"), changed)]))
    assert not comparison.equal
    moment, weight = comparison.states["exp_avg"], comparison.states["fp32"]
    assert (moment.num_different, moment.largest_difference, moment.tensor) == (1, 0.25, "b")
    assert weight.equal and weight.hash_a == weight.hash_b and moment.hash_a != moment.hash_b


def test_bits_count_and_not_values(tmp_path, progress):
    zero, minus_zero = torch.zeros(4, 3), -torch.zeros(4, 3)
    first = write(tmp_path / "1", progress, [(("a", "fp32"), zero)])
    second = write(tmp_path / "2", progress, [(("a", "fp32"), minus_zero)])
    assert not compare_checkpoints(first, second).equal


def test_other_cuts_of_the_same_state_are_equal(tmp_path, plain_engine, progress, save_engine):
    engine = plain_engine(seed=1)
    save_engine(tmp_path / "cut", engine, progress(3), tokenizer=b"")
    shapes = {"embed.weight": (4, 3), "norm.weight": (5,)}
    whole = ((name, state, engine.state[name, state].view(shape)) for name, shape in shapes.items() for state in STATES)
    scalars = engine.scalars()
    second = write_checkpoint(tmp_path / "whole", progress(3), whole, scalars=scalars, tokenizer=b"", states=STATES)
    assert compare_checkpoints(tmp_path / "cut" / second.name, second).equal


def test_the_program_says_it_by_its_exit_code(tmp_path, progress):
    first = write(tmp_path / "1", progress)
    second = write(tmp_path / "2", progress, [(("a", "fp32"), torch.zeros(4, 3))])
    program = [sys.executable, "-m", "llama_dist.checkpoint.compare", first]
    equal = subprocess.run([*program, first], check=False, capture_output=True)
    assert equal.returncode == 0 and json.loads(equal.stdout)["equal"]
    assert subprocess.run([*program, second], check=False, capture_output=True).returncode == 1
    lost = subprocess.run([*program, tmp_path], check=False, capture_output=True)
    assert lost.returncode == 74 and b"manifest.json" in lost.stderr
