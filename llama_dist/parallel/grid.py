"""Where a rank stands: its pipeline stage and its data-parallel replica. Pure arithmetic, no process group."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """The coordinate of one rank. Stages are the slow axis: rank = pp_stage x dp_size + dp_rank."""

    rank: int
    world_size: int
    pp_size: int

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world_size and self.world_size % self.pp_size == 0

    @property
    def dp_size(self) -> int:
        """Number of data-parallel replicas."""
        return self.world_size // self.pp_size

    @property
    def dp_rank(self) -> int:
        """Replica of this rank, 0 to dp_size - 1."""
        return self.rank % self.dp_size

    @property
    def pp_stage(self) -> int:
        """Pipeline stage of this rank, 0 to pp_size - 1."""
        return self.rank // self.dp_size

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.pp_stage == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the head and computes the loss."""
        return self.pp_stage == self.pp_size - 1
