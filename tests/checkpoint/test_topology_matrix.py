"""Every topology resumes every topology's checkpoint: weights and moments bit for bit, and then the same losses."""

import pytest

# Equal weights and another order of additions.
FIRST_LOSS_TOLERANCE = 1e-5
# The weights part by the rounding of each of 20 updates; AdamW divides by small second moments.
LATER_LOSS_TOLERANCE = 1e-3


def zero(stage, num_processes, **options):
    suffix = " offload" if options.get("offload") else ""
    return {"name": f"Z{stage}x{num_processes}{suffix}", "zero": stage, "pp": 1, **options}


def pipeline(stages, dp_size, split=None):
    name = f"P{stages}" + (f"x{dp_size}" if dp_size > 1 else "")
    return {"name": f"{name} {split}".replace(", ", ",") if split else name, "zero": 1, "pp": stages, "split": split}


# (world size, topologies that one launch may hold: DeepSpeed keeps its grid)
WORLDS = [
    (1, [zero(0, 1), zero(1, 1), zero(2, 1), zero(3, 1)]),
    (2, [zero(0, 2), zero(1, 2), zero(2, 2), zero(3, 2), zero(1, 2, offload=True), zero(3, 2, offload=True)]),
    (2, [pipeline(2, 1), pipeline(2, 1, [1, 3])]),
    (4, [zero(0, 4), zero(1, 4), zero(2, 4), zero(3, 4)]),
    (4, [pipeline(4, 1)]),
    (4, [pipeline(2, 2), pipeline(2, 2, [3, 1])]),
]
SHORT_WORLDS = [(2, [zero(3, 2), zero(2, 2, offload=True)])]


def resume_all(run_ranks, root, worlds):
    """Distances of the losses from the unbroken run's, by source and target; and what was not equal."""
    unbroken = {}
    for world_size, topologies in worlds:
        argument = {"root": str(root), "write": topologies}
        unbroken |= run_ranks("topology_matrix.py", world_size, argument, timeout_seconds=900)
    first, later, unequal = {}, {}, []
    for world_size, topologies in worlds:
        argument = {"root": str(root), "read": topologies, "sources": list(unbroken)}
        resumed = run_ranks("topology_matrix.py", world_size, argument, timeout_seconds=1800)
        for target, of_sources in resumed.items():
            for source, outcome in of_sources.items():
                unequal += [f"{source} as {target}: {one}" for one in outcome["differing"]]
                if outcome["num_held"] < outcome["num_elements"]:
                    unequal.append(f"{source} as {target}: holds {outcome['num_held']} of {outcome['num_elements']}")
                distances = [abs(a - b) for a, b in zip(outcome["losses"], unbroken[source], strict=True)]
                first[source, target], later[source, target] = distances[0], max(distances[1:])
    return first, later, unequal


def as_table(later):
    names = list(dict.fromkeys(source for source, _ in later))
    rows = [f"| written by | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for source in names:
        cells = [f"{later[source, target]:.0e}" if later[source, target] else "0" for target in names]
        rows.append(f"| {source} | {' | '.join(cells)} |")
    return "\n".join(rows)


@pytest.mark.timeout(5400)
@pytest.mark.parametrize("worlds", [SHORT_WORLDS, pytest.param(WORLDS, marks=pytest.mark.long)])
def test_every_topology_resumes_every_checkpoint(run_ranks, tmp_path, worlds, capsys):
    first, later, unequal = resume_all(run_ranks, tmp_path, worlds)
    num_topologies = sum(len(topologies) for _, topologies in worlds)
    assert len(first) == num_topologies**2
    with capsys.disabled():
        if worlds is WORLDS:
            print(f"\n{as_table(later)}\nlargest distance of the first loss: {max(first.values()):.1e}")
    assert unequal == []
    assert max(first.values()) < FIRST_LOSS_TOLERANCE, max(first, key=first.get)
    assert max(later.values()) < LATER_LOSS_TOLERANCE, max(later, key=later.get)
    assert all(not (first[name, name] or later[name, name]) for name, _ in first), "the same topology: bit for bit"
