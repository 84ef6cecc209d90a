"""The `verify-resume` verb: proves on the user's own config and topology that an interrupted run is the straight one.

Real launches in directories of their own below the run's; the run itself gets no attempt and no checkpoint.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from launcher.changes import check_changes, find_changes
from launcher.code_record import describe_code
from launcher.launch import Launch, LaunchRequest, check_launch
from launcher.records import write_json
from launcher.resume_evidence import compare_losses, first_step_of_attempt, first_step_with_other_samples
from launcher.trial import TrialError, new_trial_directory, refuse_live, trial_config
from launcher.verdict import Finding, Tolerance, Topology, Verdict, tolerance_of
from launcher.verification_runs import SubRun
from llama_dist.config import ConfigError, RunConfig, dump_config
from llama_dist.exit_codes import ExitCode

_FEWEST_STEPS = 4
_COMPARISON_MODULE = "llama_dist.checkpoint.compare"
_ANSWERS = (0, 1)  # exit codes with which the comparison has compared


@dataclass(frozen=True)
class VerificationRequest:
    """What the user asked for. `onto` and `onto_cluster` name a second topology; without them there is none."""

    launch: LaunchRequest
    num_steps: int
    onto: tuple[str, ...] = ()
    onto_cluster: Path | None = None
    keep: bool = False
    """Whether the checkpoints of the sub-runs stay."""


@dataclass(frozen=True)
class _Verification:
    """One verification in its directory."""

    launch: Launch
    onto: Launch | None
    num_steps: int
    directory: Path
    output: TextIO

    @property
    def half(self) -> int:
        return self.num_steps // 2

    def sub_run(self, name: str, launch: Launch) -> SubRun:
        # `train.num_steps` stays: the schedule ends with it.
        config = trial_config(launch.config, name, self.directory, interval_steps=self.half, keep_last=2 * self.half)
        return SubRun(config=config, cluster=launch.cluster, output=self.output, num_steps=self.num_steps)


def verify_resume(
    request: VerificationRequest, caller_environment: Mapping[str, str], output: TextIO
) -> tuple[Verdict, Path]:
    """Run everything; answers the verdict and its file. The launches' output goes to `output`.

    Raises ReportedError where it cannot start, and TrialError where a sub-run did not come far enough.
    """
    launch = check_launch(request.launch, caller_environment)
    onto = _check_onto(request, launch, caller_environment)
    _check_steps(request.num_steps, launch.config)
    refuse_live(launch.run, "verify")
    verification = _Verification(
        launch, onto, request.num_steps, new_trial_directory(launch.run, "verify_resume"), output
    )
    verdict = _verify(verification, keep=request.keep)
    path = verification.directory / "verdict.json"
    write_json(path, verdict.to_json())
    return verdict, path


def _check_onto(request: VerificationRequest, launch: Launch, caller_environment: Mapping[str, str]) -> Launch | None:
    """Check the second topology. Raises ConfigError if more than the topology differs."""
    if not request.onto and request.onto_cluster is None:
        return None
    first = request.launch
    cluster_file = request.onto_cluster or first.cluster_file
    onto = check_launch(
        LaunchRequest(first.run_file, cluster_file, (*first.overrides, *request.onto)), caller_environment
    )
    check_changes(launch.config.name, find_changes(dump_config(launch.config), dump_config(onto.config), ()))
    return onto


def _check_steps(num_steps: int, config: RunConfig) -> None:
    if num_steps < _FEWEST_STEPS or num_steps % 2:
        raise ConfigError(f"--steps {num_steps}: needs an even number of {_FEWEST_STEPS} or more")
    if num_steps > config.train.num_steps:
        raise ConfigError(
            f"--steps {num_steps}, but train.num_steps is {config.train.num_steps}: the learning rate is defined up to "
            "there; use fewer --steps"
        )


def _verify(verification: _Verification, *, keep: bool) -> Verdict:
    launch = verification.launch
    sub_runs = [verification.sub_run(name, launch) for name in ("straight", "interrupted")]
    if verification.onto:
        sub_runs.append(verification.sub_run("moved", verification.onto))
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        findings = _findings(verification, sub_runs)
    finally:
        if not keep:
            for one in sub_runs:
                one.remove_checkpoints()
    text = json.dumps(dump_config(launch.config), sort_keys=True)
    return Verdict(
        run=launch.run.name,
        date=began,
        code=describe_code(Path(__file__).parent.parent),
        config_hash=hashlib.sha256(text.encode()).hexdigest(),
        num_steps=verification.num_steps,
        topology=_topology(launch),
        findings=findings,
    )


def _findings(verification: _Verification, sub_runs: list[SubRun]) -> tuple[Finding, ...]:
    """Run the sub-runs in their order, and judge each against the first."""
    straight, interrupted = sub_runs[:2]
    half = verification.half
    straight.train()
    rank = interrupted.train_interrupted()
    if (first_step := first_step_of_attempt(interrupted.run, 2)) != half + 1:
        raise TrialError(
            f"the interrupted run went on with step {first_step}, not {half + 1}: where its steps are too quick for "
            f"the kill to come before the next save, use --steps {8 * half}"
        )
    story = f"{half} steps, SIGKILL of rank {rank}, the rest by its supervisor's restart"
    findings = [_finding(straight, interrupted, verification.launch, story, Tolerance())]
    for moved in sub_runs[2:]:
        onto = verification.onto
        assert onto
        moved.begin_with(interrupted.checkpoint(half))
        moved.train()
        if (first_step := first_step_of_attempt(moved.run, 1)) != half + 1:
            raise TrialError(f"the moved run went on with step {first_step}, not {half + 1}", ExitCode.OUR_BUG)
        tolerance = Tolerance()
        if _adds_in_other_order(verification.launch, onto):
            tolerance = tolerance_of(onto.config.train.precision)
        story = f"from its checkpoint of step {half} on {_topology(onto)}"
        findings.append(_finding(straight, moved, onto, story, tolerance))
    return tuple(findings)


def _adds_in_other_order(first: Launch, second: Launch) -> bool:
    """Whether sums over ranks, micro-batches or slices may round differently."""
    orders = [
        (_topology(launch), launch.config.parallel, launch.config.batch, launch.config.train.activation_checkpointing)
        for launch in (first, second)
    ]
    return orders[0] != orders[1]


def _topology(launch: Launch) -> Topology:
    parallel = launch.config.parallel
    return Topology(launch.plan_next().world_size, parallel.pipeline_stages, parallel.zero_stage)


def _finding(straight: SubRun, other: SubRun, launch: Launch, story: str, tolerance: Tolerance) -> Finding:
    """Compare the steps that `other` did itself, and where both ended."""
    num_steps, half = straight.num_steps, straight.num_steps // 2
    steps = range(first_step_of_attempt(other.run, 1) or 1, num_steps + 1)
    num_sequences = launch.config.batch.global_batch_sequences
    return Finding(
        run=other.config.name,
        story=story,
        topology=_topology(launch),
        tolerance=tolerance,
        losses=compare_losses(straight.run, other.run, steps, tolerance.loss),
        first_step_with_other_samples=first_step_with_other_samples(straight.run, other.run, steps, num_sequences),
        checkpoints=_compare(straight.checkpoint(num_steps), other.checkpoint(num_steps), straight.checkpoint(half)),
    )


def _compare(a: Path, b: Path, since: Path) -> dict[str, Any]:
    """Compare two that came from `since`, in a process of its own: it needs torch, which the launcher does without."""
    command = [sys.executable, "-m", _COMPARISON_MODULE, str(a), str(b), "--since", str(since)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    try:
        values = json.loads(done.stdout) if done.returncode in _ANSWERS else None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise TrialError(f"{a} and {b} could not be compared: see the message above", ExitCode.STORAGE)
    return values
