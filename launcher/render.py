"""Plan and status as text for a terminal. Computes nothing beyond units."""

import shlex
from collections.abc import Sequence

from cluster.environment import Variable
from cluster.facts import MachineFacts
from launcher.memory import StageMemory
from launcher.plan import Plan
from launcher.status import RunStatus

_MAX_RANK_LINES = 32  # enough for the machines at hand; --json has all
_MAX_NODE_LINES = 8


def render_plan(plan: Plan) -> str:
    """Return the plan as a page of text."""
    lines = [
        f"run            {plan.run}, attempt {plan.attempt}, in {plan.run_directory}",
        *_render_machines(plan.machines),
        f"world          {plan.world_size} rank(s) = {plan.pp_size} pipeline stage(s) x {plan.dp_size} replica(s)",
        f"accumulation   {plan.accumulation_micro_batches} micro-batch(es) per replica and step",
        f"tokens         {plan.tokens_per_step:,} per step, {plan.tokens_total:,} in all",
        f"parameters     {plan.num_parameters:,}",
        f"bubble         {plan.pipeline_bubble:.1%} of a step, (p - 1) / (m + p - 1)",
        "",
        *_render_memory(plan.memory_per_rank),
        "",
        *_render_ranks(plan),
        "",
        "worker command",
        f"  {shlex.join(plan.worker_command)}",
        *_render_agents(plan),
        "",
        *_render_environment("worker environment (torchrun adds RANK and the like)", plan.worker_environment),
    ]
    if plan.shipper_environment:
        seen = {variable.name: variable for variable in plan.worker_environment}
        extra = [variable for variable in plan.shipper_environment if seen.get(variable.name) != variable]
        lines += ["", *_render_environment("metrics shipper: the same, without the tuning, and", extra)]
    return "\n".join(lines)


def render_status(status: RunStatus) -> str:
    """Return a run's status as some lines of text."""
    newest = "none" if status.newest_checkpoint_step is None else f"step {status.newest_checkpoint_step}"
    code = "" if status.exit_code is None else f" (exit code {status.exit_code})"
    lines = [
        f"run         {status.run}, in {status.run_directory}",
        f"state       {status.state}{code}" + (f": {status.reason}" if status.reason else ""),
        f"attempt     {status.attempt} ({status.num_earlier_attempts} before it)",
        f"checkpoint  {newest}",
    ]
    if status.supervisor_pid is not None:
        lines.append(f"supervisor  pid {status.supervisor_pid} on {status.supervisor_host}")
    for rank in status.ranks:
        alive = {True: "alive", False: "ended", None: f"on {rank.host}"}[rank.alive]
        age = f"{rank.heartbeat_age_seconds:.0f} s ago"
        lines.append(f"rank {rank.rank:<6} step {rank.step}, {rank.phase}, {age}, pid {rank.pid}, {alive}")
    if status.last_metrics:
        values = ", ".join(
            f"{name} {_number(value)}" for name, value in status.last_metrics.items() if value is not None
        )
        lines.append(f"metrics     {values}")
    for past in status.past_attempts:
        if "reason" in past:
            cause = f" ({past['cause']})" if past.get("cause") else ""
            past_code = past.get("exit_code")
            ended = "" if past_code is None else f"ended with {past_code}{cause}: "
            lines.append(f"attempt {past['attempt']:<3} {ended}{past['reason']}")
    return "\n".join(lines)


def _render_machines(machines: Sequence[MachineFacts]) -> list[str]:
    lines = []
    for machine in machines[:_MAX_NODE_LINES]:
        gpus = f"{len(machine.gpus)} x {machine.gpus[0].name}" if machine.gpus else "no GPU"
        lines.append(f"machine        {machine.host}: {machine.num_cores} cores, {_size(machine.memory_bytes)}, {gpus}")
    return lines + _and_more(machines[_MAX_NODE_LINES:])


def _render_agents(plan: Plan) -> list[str]:
    if len(plan.agent_commands) == 1:
        return ["agent command (torchrun)", f"  {shlex.join(plan.agent_commands[0])}"]
    lines = ["agent commands (torchrun), one a node"]
    for machine, command in zip(plan.machines[:_MAX_NODE_LINES], plan.agent_commands, strict=False):
        lines.append(f"  {machine.host}: {shlex.join(command)}")
    return lines + _and_more(plan.agent_commands[_MAX_NODE_LINES:])


def _and_more(left_out: Sequence[object]) -> list[str]:
    return [f"  and {len(left_out)} more (--json shows all)"] if left_out else []


def _render_memory(stages: Sequence[StageMemory]) -> list[str]:
    header = ("stage", "layers", "parameters", "weights", "gradients", "optimizer", "activations", "sum")
    rows = [
        (
            str(stage.pp_stage),
            str(stage.num_layers),
            f"{stage.num_parameters:,}",
            _size(stage.weights_bytes),
            _size(stage.gradients_bytes),
            _size(stage.optimizer_bytes),
            _size(stage.activations_bytes),
            _size(stage.total_bytes),
        )
        for stage in stages
    ]
    return [
        "memory of a rank, an estimate (ZeRO: arXiv 1910.02054; activations: arXiv 2205.05198)",
        *_table(header, rows),
    ]


def _render_ranks(plan: Plan) -> list[str]:
    header = ("rank", "host", "local rank", "stage", "replica")
    shown = plan.ranks[:_MAX_RANK_LINES]
    rows = [tuple(str(part) for part in (r.rank, r.host, r.local_rank, r.pp_stage, r.dp_rank)) for r in shown]
    return ["ranks", *_table(header, rows), *_and_more(plan.ranks[_MAX_RANK_LINES:])]


def _render_environment(title: str, variables: Sequence[Variable]) -> list[str]:
    return [title, *(f"  {each.name}={shlex.quote(each.value)}  # {each.reason}" for each in variables)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)
    ]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.2f} GiB" if num_bytes >= 1 << 30 else f"{num_bytes / (1 << 20):.1f} MiB"


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
