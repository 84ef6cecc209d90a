import dataclasses
import json
import sys

import pytest
from fake_run import run_values
from hypothesis import given
from hypothesis import strategies as st

from cluster.facts import Gpu, MachineFacts
from launcher.backend import Machines
from launcher.memory import estimate_memory
from launcher.offers import find_offers
from launcher.plan import make_plan, pipeline_bubble, place_ranks
from launcher.render import render_plan
from llama_dist.config import ClusterConfig, ConfigError, check_rules, parse_run_config
from llama_dist.parallel.grid import Grid

MACHINE = MachineFacts("node", 8, 1 << 34, ())


def run_config(tmp_path, **sections):
    values = run_values(tmp_path)
    for section, fields in sections.items():
        values[section] = {**values.get(section, {}), **fields} if isinstance(fields, dict) else fields
    return parse_run_config(values, where="test")


def plan_of(config, num_processes, machine=MACHINE, **caller):
    return make_plan(config, ClusterConfig(num_processes_per_node=num_processes), Machines((machine,)), caller)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_every_rank_stands_where_the_trainers_grid_says(num_hosts, replicas, pp_size):
    per_node = replicas * pp_size
    hosts = [f"node{number}" for number in range(num_hosts)]
    places = place_ranks(hosts, per_node, pp_size)
    assert [place.rank for place in places] == list(range(num_hosts * per_node))
    for place in places:
        grid = Grid(place.rank, len(places), pp_size)
        assert (place.pp_stage, place.dp_rank) == (grid.pp_stage, grid.dp_rank)
        assert hosts.index(place.host) * per_node + place.local_rank == place.rank


def test_a_plan_counts_what_a_step_takes(tmp_path):
    config = run_config(tmp_path, batch={"global_batch_sequences": 8}, parallel={"pipeline_stages": 2})
    plan = plan_of(config, 4)
    assert (plan.world_size, plan.pp_size, plan.dp_size) == (4, 2, 2)
    assert plan.accumulation_micro_batches == 4
    assert plan.tokens_per_step == 8 * 16
    assert plan.tokens_total == 8 * 16 * 20
    assert plan.pipeline_bubble == pytest.approx(1 / 5)
    assert sum(stage.num_parameters for stage in plan.memory_per_rank) == pytest.approx(
        config.model.num_parameters, rel=0.01
    )


def test_no_pipeline_has_no_bubble():
    assert pipeline_bubble(1, 7) == 0


@pytest.mark.parametrize(("zero_stage", "share"), [(0, (1, 1, 1)), (1, (1, 1, 4)), (2, (1, 4, 4)), (3, (4, 4, 4))])
def test_zero_stages_divide_optimizer_then_gradients_then_weights(tmp_path, zero_stage, share):
    config = run_config(tmp_path, parallel={"zero_stage": zero_stage}, train={"num_steps": 20, "precision": "bf16"})
    (stage,) = estimate_memory(config, dp_size=4, accumulation=1)
    count = config.model.num_parameters
    assert stage.num_parameters == pytest.approx(count, rel=0.01)
    expected = (2 * count / share[0], 6 * count / share[1], 12 * count / share[2])
    assert (stage.weights_bytes, stage.gradients_bytes, stage.optimizer_bytes) == pytest.approx(expected, rel=0.01)


def test_checkpointing_activations_takes_less_memory(tmp_path):
    model = run_values(tmp_path)["model"] | {"num_layers": 12}
    (kept,) = estimate_memory(run_config(tmp_path, model=model), 1, 1)
    again = run_config(tmp_path, model=model, train={"num_steps": 20, "activation_checkpointing": True})
    assert estimate_memory(again, 1, 1)[0].activations_bytes < kept.activations_bytes


def test_an_illegal_topology_lists_all_broken_rules_and_offers_legal_ones(tmp_path):
    config = run_config(tmp_path, parallel={"pipeline_stages": 3, "zero_stage": 2}, batch={"micro_batch_sequences": 3})
    with pytest.raises(ConfigError) as refused:
        plan_of(config, 4)
    assert refused.value.exit_code == 78
    for rule in ("pipeline-divides-world", "pipeline-needs-zero-0-or-1", "global-batch-divisible"):
        assert f"[{rule}]" in str(refused.value)
    offers = find_offers(config, 4)
    assert offers
    for offer in offers:
        values = config.model_dump(mode="json")
        for change in offer:
            key, value = change.split("=")
            section, name = key.split(".")
            values[section][name] = int(value)
        check_rules(parse_run_config(values, where="offer"), 4)
        assert f"--set {' --set '.join(offer)}" in str(refused.value)


def test_what_no_topology_can_mend_is_refused_without_an_offer(tmp_path):
    config = run_config(tmp_path, schedule={"warmup_steps": 100})
    with pytest.raises(ConfigError) as refused:
        plan_of(config, 1)
    assert "works on" not in str(refused.value)


def test_more_ranks_than_gpus_are_refused(tmp_path):
    machine = MachineFacts("node", 8, 1 << 34, (Gpu(0, "H100", 80 << 30),))
    with pytest.raises(ConfigError, match="1 GPU"):
        plan_of(run_config(tmp_path), 2, machine)
    assert plan_of(run_config(tmp_path), None, machine).world_size == 1


def test_commands_are_argument_lists_that_start_the_trainer(tmp_path):
    plan = plan_of(run_config(tmp_path), 2)
    assert plan.worker_command[:4] == (sys.executable, "-P", "-m", "llama_dist.train")
    (agent,) = plan.agent_commands
    assert agent[:4] == (sys.executable, "-P", "-m", "torch.distributed.run")
    assert agent[-len(plan.worker_command) :] == plan.worker_command
    assert agent[agent.index("--nproc-per-node") + 1] == "2"


def test_a_plan_shows_no_secret_as_text_or_json(tmp_path):
    config = run_config(tmp_path, metrics={"mlflow": True, "tracking_uri": "https://${USER_PASS}@host"})
    caller = {"MLFLOW_TRACKING_TOKEN": "hunter2", "USER_PASS": "me:hunter2", "NCCL_NET": "Socket"}
    plan = plan_of(config, 1, **caller)
    page = render_plan(plan)
    assert "NCCL_NET=Socket" in page
    assert "MLFLOW_TRACKING_TOKEN='***'" in page
    assert "hunter2" not in page + json.dumps(dataclasses.asdict(plan))
