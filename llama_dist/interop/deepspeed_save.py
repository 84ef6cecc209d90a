"""The optimizer files of all data parallel ranks, which must be whole and of one save."""

from llama_dist.interop.deepspeed_folder import DeepSpeedFiles
from llama_dist.interop.deepspeed_rank import RankState, read_rank
from llama_dist.interop.errors import ExchangeError
from llama_dist.parallel.engine import STATES


def read_ranks(files: DeepSpeedFiles) -> list[RankState]:
    """Read every rank's file, in order; nothing where none was saved.

    Raises ExchangeError for ranks that are missing, too many or of another save, CheckpointError for a damaged file.
    """
    ranks = [read_rank(path) for _, path in sorted(files.optimizer.items())]
    if ranks:
        _check_numbers(files, ranks[0].num_ranks)
        for rank in ranks[1:]:
            _check_alike(rank, ranks[0])
    return ranks


def _check_numbers(files: DeepSpeedFiles, num_ranks: int) -> None:
    found = files.optimizer
    missing = sorted(set(range(num_ranks)) - found.keys())
    if missing:
        some = min(found)
        name = found[some].name.replace(f"pp_rank_{some}_", f"pp_rank_{missing[0]}_")
        raise ExchangeError(
            f"{files.tag / name}: is missing: {num_ranks} ranks wrote this checkpoint, and the files of {len(missing)} "
            "are not here: copy them from the nodes that wrote them"
        )
    surplus = sorted(found.keys() - set(range(num_ranks)))
    if surplus:
        raise ExchangeError(
            f"{found[surplus[0]]}: is of rank {surplus[0]}, but {num_ranks} ranks wrote this checkpoint: an older save "
            "lies under it: remove the files that are not of this one"
        )


def _check_alike(rank: RankState, first: RankState) -> None:
    for what, theirs, needed in (
        ("ranks", rank.num_ranks, first.num_ranks),
        ("the ZeRO stage", rank.zero_stage, first.zero_stage),
        ("states", list(rank.partitions), list(first.partitions)),
        ("scalars", rank.scalars, first.scalars),
        ("groups", len(rank.partitions[STATES[0]]), len(first.partitions[STATES[0]])),
    ):
        if theirs != needed:
            raise ExchangeError(
                f"{rank.path}: {what}: {theirs} here, {needed} in {first.path.name}: they are not of one save: copy "
                "all files of one"
            )
