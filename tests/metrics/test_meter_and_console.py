"""The meter's arithmetic, and a console line that a person and grep can both read."""

import re

import pytest

from llama_dist.metrics import Meter, StepLine, format_count, format_duration, peak_resident_bytes


def test_time_between_steps_is_not_counted():
    now = iter([0.0, 10.0, 12.0, 50.0, 51.0])
    meter = Meter(tokens_per_step=1000, peak_memory_bytes=lambda: 3 * 2**30, clock=lambda: next(now))
    meter.start_step()
    first = meter.end_step(step=1, tokens_seen=1000, loss=2.0, learning_rate=0.1, gradient_norm=1.0)
    meter.start_step()
    second = meter.end_step(step=2, tokens_seen=2000, loss=2.0, learning_rate=0.1, gradient_norm=1.0, skipped=True)
    assert (first.step_seconds, first.tokens_per_second, first.tokens_seen) == (2.0, 500.0, 1000)
    assert (second.step_seconds, second.tokens_per_second, second.tokens_seen) == (1.0, 1000.0, 2000)
    assert first.memory_gib == 3.0 and second.skipped and first.held_out_loss is None


def test_the_wait_for_data_is_a_part_of_the_step():
    now = iter([0.0, 10.0, 10.5, 12.0, 20.0, 21.0])
    meter = Meter(tokens_per_step=1000, clock=lambda: next(now))
    meter.start_step()
    meter.end_reading()
    first = meter.end_step(step=1, tokens_seen=1000, loss=2.0, learning_rate=0.1, gradient_norm=1.0)
    meter.start_step()
    second = meter.end_step(step=2, tokens_seen=2000, loss=2.0, learning_rate=0.1, gradient_norm=1.0)
    assert (first.step_seconds, first.data_stall_seconds) == (2.0, 0.5)
    assert second.data_stall_seconds == 0.0, "each step has its own"


def test_a_wait_for_data_is_shown_where_it_costs_something(make_step):
    line = StepLine(num_steps=5).format(make_step(1, step_seconds=2.0, data_stall_seconds=0.021))
    assert "data stall 0.021 s" in line
    assert "stall" not in StepLine(num_steps=5).format(make_step(1, step_seconds=2.0, data_stall_seconds=0.019))


def test_each_evaluation_set_has_its_place_in_the_line(make_step):
    step = make_step(1).with_held_out({"held_out": 6.5, "code": 5.25, "wiki": 7.0})
    assert step.held_out_loss == 6.5
    assert "held-out loss 6.5000 | code 5.2500 | wiki 7.0000" in StepLine(num_steps=5).format(step)


def test_peak_memory_grows_with_what_is_touched():
    before = peak_resident_bytes()
    block = bytearray(before + 64 * 2**20)
    assert peak_resident_bytes() >= before + 32 * 2**20
    assert block[-1] == 0


def test_the_line_of_a_step_holds_every_number(make_step):
    line = StepLine(num_steps=200).format(make_step(10, loss=5.12345, held_out_loss=6.5, step_seconds=2.0))
    assert "\n" not in line
    for part in ("step  10/200", "loss  5.1235", "lr 1.00e-02", "grad norm   2.000", "2,010 tokens/s"):
        assert part in line
    for part in ("10.2K tokens seen", "1.25 GiB", "left 0:06:20", "held-out loss 6.5000"):
        assert part in line


def test_lines_are_aligned_over_the_run(make_step):
    printer = StepLine(num_steps=1000)
    lines = [
        printer.format(make_step(step, held_out_loss=None, named_held_out_losses={})) for step in (1, 10, 100, 999)
    ]
    assert len({tuple(match.start() for match in re.finditer(r"\|", line)) for line in lines}) == 1


def test_a_skipped_step_is_named(make_step):
    assert "skipped: fp16 overflow" in StepLine(num_steps=5).format(make_step(1, skipped=True))
    assert "skipped" not in StepLine(num_steps=5).format(make_step(1))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1K"), (10_240, "10.2K"), (1_234_567, "1.23M"), (3 * 10**12, "3T")],
)
def test_counts_are_short(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (90061, "1d 1:01:01")]
)
def test_durations_are_exact(seconds, text):
    assert format_duration(seconds) == text
