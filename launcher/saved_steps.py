"""What a run's own records say it has saved: asked when its checkpoints are gone, so that nothing restarts in silence.

Reads the records only; what is really there is the checkpoint layer's to say.
"""

from launcher.attempt_files import attempt_numbers
from launcher.records import read_json
from llama_dist.config import RunDirectory
from llama_dist.config.run_directory import set_aside_attempt
from llama_dist.config.run_life import read_life, read_saved


def step_known_as_saved(run: RunDirectory) -> int | None:
    """Newest step that the run must have a checkpoint of; None if it has saved nothing since it began at step 0."""
    saved = read_saved(run)
    noted = [saved.step] if saved and saved.step is not None else []
    return max([*noted, *_steps_of_exits(run)], default=None)


def _steps_of_exits(run: RunDirectory) -> list[int]:
    """Newest checkpoints before and after the attempts of this life."""
    life = read_life(run)
    began_anew = max((number for path in run.path.iterdir() if (number := set_aside_attempt(path))), default=0)
    numbers = [number for number in attempt_numbers(run) if number >= began_anew]
    records = [read_json(run.attempt(number) / "exit.json") or {} for number in numbers]
    of_life = [record for record in records if record.get("life", life) == life]
    found = [record.get(f"checkpoint_step_{when}") for record in of_life for when in ("before", "after")]
    return [step for step in found if isinstance(step, int)]
