"""Creates or continues the run of a checked launch and supervises it to its end.

Idempotent: a new name starts a run, an existing one goes on from its newest checkpoint.
"""

import contextlib
import os
from collections.abc import Iterator

from cluster.environment import as_mapping, shipper_environment
from launcher.attempt_files import write_attempt, write_config
from launcher.backend import AttemptSpec, Backend, Machines, NodeSpec
from launcher.backends import agents_join, backend_of
from launcher.changes import Change, describe_changes, find_changes
from launcher.checkpoint_link import link_checkpoints
from launcher.console import Console
from launcher.errors import LeaseLostError, RunDirectoryError
from launcher.launch import Launch
from launcher.lease import Lease
from launcher.lost_checkpoints import bring_back_checkpoints, note_checkpoints
from launcher.plan import log_directory, node_environment
from launcher.preflight import check_before_launch
from launcher.restored_life import settle_life
from launcher.restored_tracking import restore_tracking
from launcher.run_lock import lock_run
from launcher.shipper import Shipper
from launcher.stop_request import stop_on_signals
from launcher.supervise import Supervised, Supervisor
from launcher.unbegun import interruption_told, nothing_left_if_refused
from llama_dist.checkpoint.manifest import list_steps
from llama_dist.config import ConfigError, ReportedError, RunDirectory, dump_config, set_aside_path
from llama_dist.config.run_life import begin_life, read_saved
from llama_dist.exit_codes import ExitCode


def execute(launch: Launch, console: Console) -> int:
    """Run the launch; answers the run's exit code. Raises ReportedError before anything starts."""
    with contextlib.closing(backend_of(launch)) as backend:
        return _execute_on(backend, launch, console)


def _execute_on(backend: Backend, launch: Launch, console: Console) -> int:
    run = launch.run
    with interruption_told(console):
        is_new = check_new(launch, backend)
        create_run_directory(run)
        try:
            check_before_launch(launch, console)
        except (ConfigError, KeyboardInterrupt):
            if is_new:
                with contextlib.suppress(OSError):  # where another launch has begun the run meanwhile
                    run.path.rmdir()
            raise
    with stop_on_signals(run.stop_request, backend.take_signals) as stop:
        with hold_run(launch, backend, console, is_new=is_new) as lease:
            stop.discard()
            changes = launch.find_changes()
            backend.check()
            open_run(launch, changes, console)
            preparation = _Preparation(launch, changes, console)
            supervised = Supervised(run, launch.config, backend, preparation.prepare)
            try:
                code = _supervise(Supervisor(supervised, stop, console, lease), run)
            except LeaseLostError:
                if preparation.shipper:  # the new owner has one of its own
                    preparation.shipper.end()
                raise
        if preparation.shipper:  # without the lock: the run has ended, and may be launched again
            preparation.shipper.finish(console)
    return code


def check_new(launch: Launch, backend: Backend) -> bool:
    """Whether the run is new; its backend is then checked before anything is written. Raises ReportedError.

    Agents that join do so by files of the run's directory, which only the holder of its lock writes: later, then.
    """
    is_new = not launch.run.path.exists()
    if is_new and not agents_join(launch):
        backend.check()
    return is_new


@contextlib.contextmanager
def hold_run(launch: Launch, backend: Backend, console: Console, *, is_new: bool) -> Iterator[Lease]:
    """Hold the run while the block runs. The backend lets go of the nodes before the run is let go of.

    Raises ReportedError.
    """
    run, seconds = launch.run, launch.config.supervision.lease_seconds
    with (
        disk_faults_told(run),
        lock_run(run, seconds, console.say) as lease,
        nothing_left_if_refused(run, is_new=is_new),
        contextlib.closing(backend),
    ):
        yield lease


def create_run_directory(run: RunDirectory) -> None:
    """Create the run's directory for its owner alone. Raises RunDirectoryError."""
    try:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        run.path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"{run.path}: cannot be created: {error.strerror}: set runs_directory to a place you can write"
        ) from None


class _Preparation:
    """Writes the files of each attempt, and starts the shipper once there is a config that it can read."""

    def __init__(self, launch: Launch, changes: tuple[Change, ...], console: Console) -> None:
        self.shipper: Shipper | None = None
        self._launch, self._changes, self._console = launch, changes, console

    def prepare(self, number: int, machines: Machines) -> AttemptSpec:
        """Write the attempt down and answer how it is started on these machines.

        Raises RunDirectoryError where the checkpoints are gone: a disk may be lost between two attempts as well.
        """
        launch, caller = self._launch, self._launch.caller_environment
        if launch.config.checkpoint.shared:  # else the ranks look, each on its node's disk
            bring_back_checkpoints(launch.run, launch.config.checkpoint.upload, self._console)
        note_checkpoints(launch.run)
        fitted = launch.fit(machines)
        plan = launch.plan_attempt(number, machines, fitted.config)
        changes = self._changes + find_changes(dump_config(launch.config), dump_config(fitted.config), ())
        write_attempt(launch.run, fitted.config, plan, changes)
        self._changes = ()  # the next attempt of this launch has the same config
        if self.shipper is None and launch.config.metrics.mlflow:
            environment = shipper_environment(caller, launch.config.metrics.tracking_uri)
            self.shipper = Shipper(launch.run, as_mapping(environment))
        logs, per_node = log_directory(launch.run, number), plan.world_size // len(machines.nodes)
        nodes = [
            NodeSpec(
                one.host,
                command,
                as_mapping(node_environment(machines, one, per_node, logs, caller)),
                [place.rank for place in plan.ranks[number * per_node : (number + 1) * per_node]],
            )
            for number, (one, command) in enumerate(zip(machines.nodes, plan.agent_commands, strict=True))
        ]
        return AttemptSpec(launch.run, number, nodes, plan.world_size, describe_changes(changes))


@contextlib.contextmanager
def disk_faults_told(run: RunDirectory) -> Iterator[None]:
    """Turn what the disk refuses before the supervision begins (lock, `run.yaml`, a rename) into a message."""
    try:
        yield
    except OSError as error:
        place, reason = error.filename or run.path, error.strerror or error
        raise RunDirectoryError(
            f"{place}: {reason}: run `{run.name}` was not started; free or mend the disk, or see whose directory it is"
        ) from None


def open_run(launch: Launch, changes: tuple[Change, ...], console: Console) -> None:
    """Write `run.yaml` of a run at its start; of an existing one say where it goes on, or set its past aside."""
    run, name = launch.run, f"run `{launch.run.name}`"
    if not launch.request.fresh:
        bring_back_checkpoints(run, launch.config.checkpoint.upload, console)
    steps = list_steps(run.checkpoints)
    is_new = not run.config.is_file()
    if launch.starts_over(changes) and (not is_new or _was_imported(run)):
        _set_aside(launch, console)
        begin_life(run)
        write_config(run.config, launch.config)  # the run's curve and checkpoints begin with this config
        console.say(f"{name}: starts again at step 0")
    elif is_new:
        write_config(run.config, launch.config)
        console.say(f"{name}: new, in {run.path}")
    else:
        console.say(f"{name}: continues; newest checkpoint: {f'step {steps[-1]}' if steps else 'none yet'}")
    settle_life(run)
    told = link_checkpoints(run, launch.config.checkpoint)
    if told:
        console.say(f"{name}: {told}")
    if restore_tracking(run):
        console.say(f"{name}: goes on in the tracker as the run that its checkpoint names")
    for line in describe_changes(changes):
        console.say(f"changed:{line}")


def _was_imported(run: RunDirectory) -> bool:
    """Whether a run that was never launched has a past: checkpoints from elsewhere, be they lost by now."""
    return os.path.lexists(run.checkpoints) or read_saved(run) is not None


def _set_aside(launch: Launch, console: Console) -> None:
    """Rename checkpoints and metrics: the next attempt makes new ones, and with them a new run in the tracker."""
    number = launch.plan_next().attempt
    for directory in (launch.run.checkpoints, launch.run.metrics):
        if os.path.lexists(directory):  # also a link to a disk that is not there
            aside = set_aside_path(directory, number)
            directory.rename(aside)
            console.say(f"run `{launch.run.name}`: its old {directory.name} are kept in {aside}")


def _supervise(supervisor: Supervisor, run: RunDirectory) -> int:
    """Supervise; an error of the supervisor itself is written down as the run's end before it is told."""
    try:
        return supervisor.supervise()
    except LeaseLostError:
        raise  # what it would write down is another supervisor's now
    except Exception as error:
        code = error.exit_code if isinstance(error, ReportedError) else ExitCode.OUR_BUG
        reported: Exception | None = None
        if isinstance(error, OSError):
            code = ExitCode.STORAGE
            reported = RunDirectoryError(f"run `{run.name}` ended, its directory cannot be used: {error}")
        with contextlib.suppress(OSError):  # the disk that failed may be this one
            supervisor.write_state("failed", f"supervisor: {error}", int(code))
        if reported:
            raise reported from error
        raise
