"""The doctor's quick checks as a launch does them: what cannot work is refused before anything starts."""

from launcher.console import Console
from launcher.doctor.result import CheckResult
from launcher.doctor.subject import Subject
from launcher.doctor.visit import quick_checks
from launcher.fleet.choice import NodeNeeds
from launcher.launch import Launch
from llama_dist.config import ConfigError


def check_before_launch(launch: Launch, console: Console) -> None:
    """Raise ConfigError for a fault of all nodes, or where too few nodes are without one; tell the rest."""
    if launch.cluster.backend == "mpi":
        return  # the doctor reaches nodes by ssh, which mpirun may do without; the agents check what they can
    is_this_alone = launch.cluster.backend in ("local", "started")
    hosts = (launch.machine.host,) if is_this_alone else launch.hosts
    needs = NodeNeeds.of(launch.cluster, len(launch.hosts))
    report = quick_checks(Subject(launch.cluster, hosts, launch.config, (launch.request.run_file,), needs.most))
    ill = {result.host for result in report.failures if result.host is not None}
    of_all = [result for result in report.failures if result.host is None]
    fewest = 1 if is_this_alone else needs.fewest
    if of_all or len(hosts) - len(ill) < fewest:
        faults = "".join(f"\n  {_line(result)}" for result in report.failures)
        raise ConfigError(f"the nodes are not fit for this run (`llama-dist doctor` tells all):{faults}")
    for result in report.results:
        if result.verdict in ("failed", "warning") or result.advice:  # also what was skipped for want of time
            console.say(f"{result.verdict}: {_line(result)}")


def _line(result: CheckResult) -> str:
    where = f"{result.host}: " if result.host else ""
    return f"{result.check}: {where}{result.text}" + (f": {result.advice}" if result.advice else "")
