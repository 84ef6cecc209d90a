"""Two checkpoints are compared by what they hold, and not by how it is cut into files."""

import json
import math
import subprocess
import sys

import pytest
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


def test_weights_are_measured_by_their_movement_and_moments_by_themselves_tensor_by_tensor(tmp_path, progress):
    half = write(tmp_path / "half", progress)
    moved, nearly = torch.full((4, 3), 1.51), torch.full((4, 3), 1.5101)
    straight = write(tmp_path / "straight", progress, [(("a", "fp32"), moved), (("b", "fp32"), moved)])
    other = write(tmp_path / "other", progress, [(("a", "fp32"), nearly), (("b", "exp_avg"), torch.zeros(4, 3))])
    states = compare_checkpoints(straight, other, half).states
    assert (states["fp32"].largest_share, states["fp32"].share_tensor) == (1.0, "b"), "b was not trained"
    assert (states["exp_avg"].largest_share, states["exp_avg"].share_tensor) == (1.0, "b")
    assert states["exp_avg_sq"].largest_share == 0.0
    nearer = write(tmp_path / "nearer", progress, [(("a", "fp32"), nearly), (("b", "fp32"), moved)])
    assert compare_checkpoints(straight, nearer, half).states["fp32"].largest_share == pytest.approx(0.01, rel=1e-3)
    assert compare_checkpoints(straight, nearer).states["fp32"].largest_share == pytest.approx(1e-4 / 1.51, rel=1e-3)


@pytest.mark.parametrize("value", [1.5001, math.nan, math.inf])
def test_a_difference_where_nothing_has_moved_or_that_is_no_number_is_endless(tmp_path, progress, value):
    half = write(tmp_path / "half", progress)
    other = write(tmp_path / "other", progress, [(("a", "fp32"), torch.full((4, 3), value))])
    assert compare_checkpoints(half, other, half).states["fp32"].largest_share == math.inf


def test_the_program_says_it_by_its_exit_code(tmp_path, progress):
    first = write(tmp_path / "1", progress)
    second = write(tmp_path / "2", progress, [(("a", "fp32"), torch.zeros(4, 3))])
    program = [sys.executable, "-m", "llama_dist.checkpoint.compare", first]
    equal = subprocess.run([*program, first], check=False, capture_output=True)
    assert equal.returncode == 0 and json.loads(equal.stdout)["equal"]
    assert subprocess.run([*program, second], check=False, capture_output=True).returncode == 1
    lost = subprocess.run([*program, tmp_path], check=False, capture_output=True)
    assert lost.returncode == 74 and b"manifest.json" in lost.stderr
