"""Where DeepSpeed keeps master weights and moments, seen as ranges of named parameters.

The only place that knows DeepSpeed's private layout; a DeepSpeed upgrade is checked here first
(written against 0.19.8).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch

from llama_dist.parallel.engine import STATES, StatePartition

_MOMENTS = STATES[1:]


class StateAccess(Protocol):
    """How one kind of DeepSpeed optimizer shows and takes over its state."""

    def partitions(self) -> Iterator[StatePartition]:
        """Yield every range that this rank holds."""
        ...

    def refresh_working_weights(self) -> None:
        """Collective. Copy the master weights into the weights that forward uses, on every rank."""
        ...


def create_moments(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor]) -> None:
    """Give AdamW its zero moments now: torch would create them at the first step, too late for a load."""
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{moment: torch.zeros_like(parameter, requires_grad=False) for moment in _MOMENTS},
        }


class ReplicatedState:
    """ZeRO-0 in fp32: every rank holds everything, so each saves and loads an equal share of every tensor."""

    def __init__(self, optimizer: Any, parameters: Mapping[str, torch.nn.Parameter], rank: int, num_ranks: int) -> None:
        self._optimizer, self._parameters = optimizer, parameters
        self._rank, self._num_ranks = rank, num_ranks
        create_moments(optimizer, list(parameters.values()))

    def partitions(self) -> Iterator[StatePartition]:
        """Yield this rank's share; the other shares come from the other replicas by broadcast at a load."""
        for name, parameter in self._parameters.items():
            start, end = _share(parameter.numel(), self._rank, self._num_ranks)
            if start == end:
                continue
            whole = {"fp32": parameter.data, **{m: self._optimizer.state[parameter][m] for m in _MOMENTS}}
            tensors = {state: tensor.view(-1)[start:end] for state, tensor in whole.items()}
            yield StatePartition(name, tuple(parameter.shape), start, tensors)

    def refresh_working_weights(self) -> None:
        """Collective. Collect the shares that the other replicas loaded."""
        if self._num_ranks == 1:
            return
        for parameter in self._parameters.values():
            for whole in (parameter.data, *(self._optimizer.state[parameter][m] for m in _MOMENTS)):
                for source in range(self._num_ranks):
                    start, end = _share(parameter.numel(), source, self._num_ranks)
                    if start < end:
                        torch.distributed.broadcast(whole.view(-1)[start:end], src=source)


class PartitionedState:
    """ZeRO 1 and 2, with and without a pipeline: flat fp32 partitions linked to the parameters by DeepSpeed."""

    def __init__(self, optimizer: Any, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        self._optimizer, self._parameters = optimizer, parameters
        flat = [parameter for group in optimizer.optimizer.param_groups for parameter in group["params"]]
        create_moments(optimizer.optimizer, flat)
        optimizer._lazy_init_hp_params_optimizer_state()

    def partitions(self) -> Iterator[StatePartition]:
        """Yield the fragments of this rank; a parameter that lies wholly on other ranks is left out."""
        for name, parameter in self._parameters.items():
            mapping: Any = getattr(parameter, "_hp_mapping", None)
            if mapping is None:
                continue
            tensors = {"fp32": mapping.get_hp_fragment(), **{m: mapping.get_hp_fragment(m) for m in _MOMENTS}}
            yield StatePartition(
                name,
                tuple(parameter.shape),
                mapping.lp_fragment_address.start,
                {state: tensor.detach() for state, tensor in tensors.items()},
                # DeepSpeed's mark of a tied weight's copy on every stage but the first.
                is_saved_elsewhere=getattr(parameter, "ds_pipe_replicated", False),
            )

    def refresh_working_weights(self) -> None:
        """Collective. Cast this rank's partition and gather the others'."""
        self._optimizer.update_lp_params()


class FullyPartitionedState:
    """ZeRO-3: each parameter is cut evenly over all ranks, the last cut padded."""

    def __init__(self, optimizer: Any, parameters: Mapping[str, torch.nn.Parameter], rank: int) -> None:
        self._optimizer, self._parameters, self._rank = optimizer, parameters, rank
        create_moments(optimizer.optimizer, list(optimizer.fp32_partitioned_groups_flat))

    def partitions(self) -> Iterator[StatePartition]:
        """Yield this rank's cut of every parameter without its padding."""
        parameter: Any  # DeepSpeed adds ds_numel and ds_shape to what it cuts
        for name, parameter in self._parameters.items():
            tensors = {state: self._partition(parameter, state) for state in STATES}
            size = tensors["fp32"].numel()
            offset = self._rank * size
            length = min(size, int(parameter.ds_numel) - offset)
            if length > 0:
                cut = {state: tensor[:length] for state, tensor in tensors.items()}
                yield StatePartition(name, tuple(parameter.ds_shape), offset, cut)

    def _partition(self, parameter: Any, state: str) -> torch.Tensor:
        key = None if state == "fp32" else state
        tensor: torch.Tensor = self._optimizer._get_fp32_opt_state_partition(
            parameter, release_swap_buffers=False, optim_state_key=key
        )[0]
        return tensor.detach()

    def refresh_working_weights(self) -> None:
        """Collective. Copy the masters into the cut weights, then gather the small ones that ZeRO-3 keeps whole."""
        optimizer = self._optimizer
        optimizer._partition_all_parameters()
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def _share(num_elements: int, rank: int, num_ranks: int) -> tuple[int, int]:
    """Contiguous shares that tile a tensor; they differ by at most one element."""
    return num_elements * rank // num_ranks, num_elements * (rank + 1) // num_ranks
