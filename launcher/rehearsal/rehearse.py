"""The `rehearse` verb: launches the user's run on a lab of its own, breaks it in each way, and judges what it recorded.

The run itself gets no attempt and no checkpoint; all that was built is taken down again, whatever ends the rehearsal.
"""

import hashlib
import json
import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

from launcher.code_record import describe_code
from launcher.console import Console
from launcher.lab.layout import Lab
from launcher.lab.programs import check_machine
from launcher.lab.up import running_lab
from launcher.plan import run_directory_of
from launcher.records import write_json
from launcher.rehearsal.drill import Drill
from launcher.rehearsal.evidence import read_evidence
from launcher.rehearsal.faults import Fault
from launcher.rehearsal.interruption import interruptible, stay_uninterrupted
from launcher.rehearsal.leftovers import recorded_lab, remove_leftovers
from launcher.rehearsal.progress import Progress, StuckError
from launcher.rehearsal.record import FaultResult, Rehearsal
from launcher.rehearsal.setting import Setting, rehearsed_config, set_the_scene, small_disk_bytes
from launcher.rehearsal.small_disk import SmallDisk, small_disk
from launcher.sources import check_sources
from launcher.trial import Trial, TrialError, new_trial_directory, refuse_live
from launcher.verdict import Topology, tolerance_of
from llama_dist.config import RunConfig, dump_config, load_cluster_config, load_run_config
from llama_dist.exit_codes import ExitCode

_KIND = "rehearsals"
_END_SECONDS = 100.0  # beyond the ranks' grace, as `llama-dist stop` allows
# The hosts of a lab are one machine: NCCL refuses two ranks on one of its GPUs.
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


@dataclass(frozen=True)
class RehearsalRequest:
    """What the user asked for."""

    run_file: Path
    cluster_file: Path | None
    overrides: tuple[str, ...]
    faults: tuple[Fault, ...]
    num_nodes: int = 3
    keep: bool = False
    """Whether the checkpoints stay."""


@dataclass(frozen=True)
class _Outcome:
    """What was seen while the lab stood."""

    results: tuple[FaultResult, ...]
    stop_problem: str


def rehearse(request: RehearsalRequest, output: TextIO) -> tuple[Rehearsal, Path]:
    """Rehearse the faults; answers the record and its file. What goes on is told on `output`.

    Raises ReportedError where it cannot start, LabError where the lab fails, TrialError where training never moved.
    """
    check_machine(with_slurm=False)
    config = load_run_config(request.run_file, request.overrides)
    cluster = load_cluster_config(request.cluster_file, request.overrides)
    loses_node = any(fault.loses_node for fault in request.faults)
    setting = set_the_scene(config, cluster, request.num_nodes, loses_node=loses_node)
    check_sources(config)
    run = run_directory_of(config)
    refuse_live(run, "rehearse")
    console = Console(output)
    for name in remove_leftovers(run.path / _KIND):
        console.say(f"took down lab `{name}`, which a rehearsal that was killed had left")
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    directory = new_trial_directory(run, _KIND)
    outcome = _Rehearsing(request, setting, directory, console).run()
    rehearsal = _record(setting, config, outcome, directory, began)
    path = directory / "verdict.json"
    write_json(path, rehearsal.to_json())
    return rehearsal, path


@dataclass(frozen=True)
class _Rehearsing:
    """One rehearsal while its lab stands."""

    request: RehearsalRequest
    setting: Setting
    directory: Path
    console: Console

    def run(self) -> _Outcome:
        """Build, launch, drill, and take everything down."""
        log = self.directory / "launch.log"
        with ExitStack() as stack:
            stack.enter_context(interruptible())
            name = stack.enter_context(recorded_lab(self.directory))
            # Before the lab: its hosts see the mounts that there are when they are made.
            disk = self._disk(stack)
            self.console.say(
                f"building lab `{name}` of {self.request.num_nodes} node(s); what its run says is in {log}"
            )
            lab = stack.enter_context(running_lab(name, num_nodes=self.request.num_nodes))
            trial = self._trial(lab, disk, stack.enter_context(log.open("w", encoding="utf-8")))
            stack.callback(self._tidy, trial)
            process = stack.enter_context(trial.launched())
            stack.callback(stay_uninterrupted)
            return self._drill(lab, disk, Progress(trial.run, process), process)

    def _disk(self, stack: ExitStack) -> SmallDisk | None:
        if Fault.FULL_DISK not in self.request.faults:
            return None
        num_bytes = small_disk_bytes(self.setting.config, psutil.virtual_memory().available)
        return stack.enter_context(small_disk(self.directory, num_bytes))

    def _trial(self, lab: Lab, disk: SmallDisk | None, output: TextIO) -> Trial:
        config = rehearsed_config(self.setting.config, self.directory, disk.path if disk else None)
        cluster = self.setting.cluster.model_copy(update={"ssh_config": str(lab.ssh_config)})
        return Trial(config, cluster, output, _ENVIRONMENT)

    def _drill(
        self, lab: Lab, disk: SmallDisk | None, progress: Progress, process: "subprocess.Popen[bytes]"
    ) -> _Outcome:
        drill = Drill(self.setting, lab, disk, progress, self.console.say)
        try:
            drill.start()
        except StuckError as error:
            code = process.poll()
            raise TrialError(
                f"`{progress.run.path}`: {error}; see {self.directory / 'launch.log'}",
                code if code and code > 0 else ExitCode.RETRY,
            ) from None
        results = drill.rehearse(self.request.faults)
        return _Outcome(results, self._stop(progress, process))

    def _stop(self, progress: Progress, process: "subprocess.Popen[bytes]") -> str:
        """Let the run save and end; answers what was wrong with that, if anything."""
        if progress.has_ended:
            return f"the run had ended before, with exit code {process.returncode}"
        self.console.say("asking the run to stop")
        process.terminate()
        grace_seconds = self.setting.config.supervision.stop_grace_seconds + _END_SECONDS
        try:
            code = process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            return f"the run did not end within {grace_seconds:.0f} s"
        return "" if code == ExitCode.STOPPED else f"the run ended with exit code {code}, not {int(ExitCode.STOPPED)}"

    def _tidy(self, trial: Trial) -> None:
        """Remove the checkpoints, or bring them from the small disk, which goes, to where they can stay."""
        checkpoints = trial.run.checkpoints
        if not self.request.keep:
            trial.remove_checkpoints()
        elif checkpoints.is_symlink() and checkpoints.readlink().is_relative_to(self.directory):
            target = checkpoints.readlink()
            checkpoints.unlink()
            shutil.copytree(target, checkpoints, symlinks=True)


def _record(setting: Setting, config: RunConfig, outcome: _Outcome, directory: Path, began: str) -> Rehearsal:
    trial_run = run_directory_of(rehearsed_config(setting.config, directory, None))
    parallel = setting.config.parallel
    world_size = (setting.cluster.num_processes_per_node or 1) * setting.most_nodes
    tolerance = tolerance_of(config.train.precision).loss
    return Rehearsal(
        run=config.name,
        date=began,
        code=describe_code(Path(__file__).parents[2]),
        config_hash=hashlib.sha256(json.dumps(dump_config(config), sort_keys=True).encode()).hexdigest(),
        num_nodes=len(setting.cluster.hosts),
        topology=Topology(world_size, parallel.pipeline_stages, parallel.zero_stage),
        changes=setting.changes,
        results=outcome.results,
        stop_problem=outcome.stop_problem,
        evidence=read_evidence(trial_run, config.batch.global_batch_sequences, tolerance),
    )
