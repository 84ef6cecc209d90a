"""What a run's own records say it has saved: asked when its checkpoints are gone, so that nothing restarts in silence.

Reads the records only; what is really there is the checkpoint layer's to say.
"""

from launcher.attempt_files import attempt_numbers, latest_config
from launcher.records import read_json
from launcher.status import last_metrics
from llama_dist.config import RunDirectory
from llama_dist.config.run_directory import set_aside_attempt


def step_known_as_saved(run: RunDirectory) -> int | None:
    """Newest step that the run must have a checkpoint of, from exit records and spool; None if it has saved nothing."""
    began_anew = max((number for path in run.path.iterdir() if (number := set_aside_attempt(path))), default=0)
    steps = []
    for number in attempt_numbers(run):
        record = read_json(run.attempt(number) / "exit.json") if number >= began_anew else None
        step = record.get("checkpoint_step_after") if record else None
        steps += [step] if isinstance(step, int) else []
    config, metrics = latest_config(run), last_metrics(run.spool)
    if config and metrics and isinstance(metrics.get("step"), int):
        # A supervisor that was killed wrote no exit record; the spool still tells how far its ranks came.
        interval = config.checkpoint.interval_steps
        steps.append(metrics["step"] // interval * interval)
    return max(steps, default=0) or None
