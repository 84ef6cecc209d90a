"""The half of the Engine protocol that is alike over every DeepSpeed engine: state out, state in."""

from collections.abc import Iterator
from typing import Any

from llama_dist.parallel.engine import StatePartition
from llama_dist.parallel.grid import Grid
from llama_dist.parallel.optimizer_state import StateAccess
from llama_dist.parallel.scalars import read_scalars, write_scalars
from llama_dist.parallel.weights_checksum import weights_checksum


class HeldState:
    """A DeepSpeed engine with access to its state. Training and evaluation are the subclasses'."""

    def __init__(self, engine: Any, state: StateAccess, grid: Grid) -> None:
        self.grid = grid
        self._engine, self._state = engine, state

    def partitions(self) -> Iterator[StatePartition]:
        """Yield the state that this rank holds."""
        return self._state.partitions()

    def weights_checksum(self) -> int | None:
        """Checksum of the working weights of this rank; None where ZeRO-3 has cut them."""
        if self._engine.zero_optimization_partition_weights():
            return None
        return weights_checksum(self._engine.module.parameters())

    def scalars(self) -> dict[str, float]:
        """Optimizer steps and loss scale."""
        return read_scalars(self._engine.optimizer)

    def restore(self, scalars: dict[str, float]) -> None:
        """Collective. Take over `scalars` and refresh the working weights from the partitions."""
        write_scalars(self._engine.optimizer, scalars)
        self._state.refresh_working_weights()

    def _set_learning_rate(self, learning_rate: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
