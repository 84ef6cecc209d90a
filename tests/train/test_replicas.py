"""Which replica is told to be corrupt: by majority within its pipeline stage."""

import torch

from llama_dist.parallel.weights_checksum import weights_checksum
from llama_dist.train.replicas import Replica, describe_differences


def replicas(*checksums_of_stages):
    ranks = [(stage, checksum) for stage, checksums in enumerate(checksums_of_stages) for checksum in checksums]
    return [Replica(rank, f"node{rank}", stage, checksum) for rank, (stage, checksum) in enumerate(ranks)]


def test_equal_replicas_are_no_complaint_though_stages_differ():
    assert describe_differences(replicas([1, 1], [2, 2])) == []


def test_the_odd_rank_and_host_are_named():
    (complaint,) = describe_differences(replicas([1, 1, 1], [2, 2, 9]))
    assert complaint == "rank 5 on host node5 holds other weights than 2 replicas of pipeline stage 1"


def test_a_draw_names_all():
    (complaint,) = describe_differences(replicas([1, 3]))
    assert "rank 0 on host node0" in complaint and "rank 1 on host node1" in complaint


def test_every_flipped_bit_and_every_exchange_changes_the_checksum():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(40, generator=generator), torch.randn(3, 5, generator=generator).to(torch.bfloat16)]
    reference = weights_checksum(weights)
    for weight, dtype, num_bits in ((weights[0], torch.int32, 32), (weights[1], torch.int16, 16)):
        flat = weight.view(-1).view(dtype)
        for place in range(flat.numel()):
            for bit in range(num_bits - 1):
                flat[place] ^= 1 << bit
                assert weights_checksum(weights) != reference
                flat[place] ^= 1 << bit
            flat[place] ^= torch.iinfo(dtype).min
            assert weights_checksum(weights) != reference
            flat[place] ^= torch.iinfo(dtype).min
    assert weights_checksum(weights) == reference
    assert weights_checksum([weights[0].flip(0), weights[1]]) != reference
    assert weights_checksum(weights[::-1]) != reference


def test_a_tensor_longer_than_a_chunk_counts_to_its_end():
    weight = torch.zeros((1 << 20) + 3)
    reference = weights_checksum([weight])
    weight[-1] = 1e-30
    assert weights_checksum([weight]) != reference
    assert weights_checksum([]) == 0
