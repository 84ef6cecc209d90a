"""What a run leaves behind of its steps: the losses and the samples whose weights live on."""

import json

from llama_dist.metrics.spool import effective_steps, read_spool, spool_path


def losses(run):
    return {record.metrics.step: record.metrics.loss for record in effective_steps(read_spool(spool_path(run.metrics)))}


def samples_of_each_step(run):
    """Sample ids by step, of the newest attempt that did the step: those whose weights live on."""
    newest = {}
    for path in sorted((run.metrics / "audit").glob("rank_*.jsonl")):
        for line in path.read_text().splitlines():
            values = json.loads(line)
            key = (values["step"], path.name)
            if key not in newest or values["attempt"] >= newest[key]["attempt"]:
                newest[key] = values
    steps = {}
    for (step, _), values in newest.items():
        steps.setdefault(step, set()).update(zip(values["epochs"], values["sample_ids"], strict=True))
    return steps
