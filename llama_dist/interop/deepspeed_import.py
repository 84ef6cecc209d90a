"""Makes a checkpoint of DeepSpeed's own the first checkpoint of a run: weights, moments, steps. Executes nothing of it.

One parameter is in memory at a time; the rest stays on the disk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_dist.config import ModelConfig, RunConfig
from llama_dist.interop.deepspeed_folder import find_files
from llama_dist.interop.deepspeed_module import ModuleState, read_module
from llama_dist.interop.deepspeed_rank import RankState
from llama_dist.interop.deepspeed_save import read_ranks
from llama_dist.interop.errors import ExchangeError
from llama_dist.interop.first_checkpoint import (
    FirstState,
    NamedState,
    directory_of_new_run,
    read_json,
    tokenizer_of_run,
    write_first_checkpoint,
)
from llama_dist.interop.flat_layout import FlatVector, Laid, MisfitError, Slice, lay_out_cuts, lay_out_group
from llama_dist.interop.hf_config import check_fits
from llama_dist.interop.hf_names import from_hf
from llama_dist.interop.parameter_fit import check_parameters
from llama_dist.parallel.engine import STATES

_TIED = {"embed.weight", "head.weight"}


@dataclass(frozen=True)
class _Found:
    """What a checkpoint holds, by its own names."""

    parameters: dict[str, Laid]
    states: tuple[str, ...]
    scalars: dict[str, float]
    description: str


def import_from_deepspeed(
    source: Path,
    config: RunConfig,
    revision: str,
    *,
    ignore_tokenizer: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write the state as step 0 of the run; answers the checkpoint's directory, and tells what was found.

    Moments and optimizer steps go on where the checkpoint has them. Raises ExchangeError where source and run do not
    fit or the run has checkpoints already, CheckpointError where a file is damaged or the disk refuses.
    """
    run = directory_of_new_run(config)
    _check_config(source, config.model)
    tokenizer = tokenizer_of_run(source, config, ignore_tokenizer=ignore_tokenizer)
    files = find_files(source)
    ranks = read_ranks(files)
    module = read_module(files.model(ranks[0].zero_stage if ranks else None))
    found = _of_ranks(ranks, module) if ranks else _of_module(module)
    names = _match(found, module, config.model, files.tag)
    tell(f"{files.tag}: {found.description}")
    state = FirstState(_tensors(found, names), found.states, found.scalars)
    return write_first_checkpoint(run, config, revision, state, tokenizer)


def our_name(theirs: str) -> str:
    """Our name of a parameter of a DeepSpeed engine's module, whose own names may be ours or Hugging Face's."""
    while theirs.startswith("module."):
        theirs = theirs.removeprefix("module.")
    return from_hf(theirs) or theirs


def _check_config(source: Path, model: ModelConfig) -> None:
    """Compare with the config.json that Hugging Face's trainer leaves beside such a checkpoint, if there is one."""
    place = source / "config.json"
    if place.is_file():
        check_fits(read_json(place, "a config of transformers"), model, str(place))


def _of_ranks(ranks: list[RankState], module: ModuleState) -> _Found:
    """Master weights, and moments where there are some, from the ranks' partitions."""
    first = ranks[0]
    lay_out = _cuts if first.zero_stage == 3 else _groups
    try:
        parameters = dict(lay_out(ranks, module))
    except MisfitError as error:
        raise ExchangeError(
            f"{module.path}: its shapes do not fit the partitions beside it: {error}: they are not of one save, or the "
            "state was cut otherwise than plain ZeRO does (MiCS, offload to NVMe)"
        ) from None
    states = tuple(first.partitions)
    steps = int(first.scalars.get("optimizer_steps", 0))
    moments = f"both moments after {steps} optimizer steps" if len(states) > 1 else "no moments: they begin at zero"
    ranks_told = f"{len(ranks)} rank{'s' if len(ranks) > 1 else ''}"
    told = f"ZeRO-{first.zero_stage} on {ranks_told}: master weights, {moments}"
    return _Found(parameters, states, first.scalars, told)


def _groups(ranks: list[RankState], module: ModuleState) -> Iterator[tuple[str, Laid]]:
    partitions, paddings = ranks[0].partitions, ranks[0].paddings
    paddings = paddings or [[0] * len(shapes) for shapes in module.groups]
    if not len(module.groups) == len(partitions[STATES[0]]) == len(paddings):
        raise MisfitError(f"{len(partitions[STATES[0]])} groups are saved, {len(module.groups)} named")
    for group, shapes in enumerate(module.groups):
        vectors = {state: FlatVector([rank.partitions[state][group] for rank in ranks]) for state in partitions}
        yield from lay_out_group(shapes, paddings[group], vectors)


def _cuts(ranks: list[RankState], module: ModuleState) -> Iterator[tuple[str, Laid]]:
    shapes = {name: shape for group in module.groups for name, shape in group.items()}
    vectors = {state: [FlatVector(rank.partitions[state]) for rank in ranks] for state in ranks[0].partitions}
    return lay_out_cuts(shapes, vectors)


def _of_module(module: ModuleState) -> _Found:
    """The weights that the forward pass used, where no optimizer state was saved."""
    parameters = {}
    for name, tensor in module.weights().items():
        vector = FlatVector([tensor.reshape(-1)])
        parameters[name] = Laid(tuple(tensor.shape), {STATES[0]: [Slice(vector, 0, tensor.numel())]})
    types = " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in module.weights().values()}))
    told = f"no partitioned optimizer state: the module's weights as they are ({types}); the moments begin at zero"
    return _Found(parameters, STATES[:1], {}, told)


def _match(found: _Found, module: ModuleState, model: ModelConfig, tag: Path) -> dict[str, str]:
    """The checkpoint's name of every parameter of the run's model."""
    held = _TIED & set(map(our_name, found.parameters))
    is_tied = len(held) == 1
    if held and is_tied != model.tie_embeddings:
        there = "one weight for embedding and head" if is_tied else "a weight for each of embedding and head"
        raise ExchangeError(
            f"{tag}: model.tie_embeddings is {model.tie_embeddings} in the run, the checkpoint has {there}: set it to "
            f"{is_tied}"
        )
    frozen = module.frozen(found.parameters)
    if frozen:
        raise ExchangeError(
            f"{module.path}: {frozen[0]} is frozen there, without optimizer state ({len(frozen)} such in all): a run "
            "trains all: save the model as Hugging Face's safetensors and import those"
        )

    def translate(theirs: str) -> str:
        # A tied weight is stored under the name that the module registers first.
        return "embed.weight" if is_tied and our_name(theirs) in _TIED else our_name(theirs)

    shapes = {name: laid.shape for name, laid in found.parameters.items()}
    return check_parameters(shapes, model, translate, tag)


def _tensors(found: _Found, names: dict[str, str]) -> Iterator[NamedState]:
    for ours, theirs in names.items():
        for state in found.states:
            yield ours, state, found.parameters[theirs].read(state)
