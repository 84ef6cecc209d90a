"""A backend without processes: each attempt is a function that leaves what ranks would leave, and answers a status."""

import json
import time

from cluster.facts import MachineFacts
from launcher.agent_log import WorkerFailures
from launcher.backend import Machines


class FakeBackend:
    def __init__(self, run, *attempts):
        self.run, self.attempts = run, list(attempts)
        self.specs = []

    def check(self):
        pass

    def gather(self, _set_aside):
        return Machines((MachineFacts("node", 2, 1 << 34, ()),))

    def has_more_nodes(self):
        return False

    def take_signals(self):
        return []

    def close(self):
        pass

    def start(self, spec):
        self.specs.append(spec)
        attempt = self.attempts.pop(0)
        return FakeAttempt(*attempt(self.run, len(self.specs)))


class FakeAttempt:
    def __init__(self, status, failures=None):
        self.status, self._failures = status, failures or WorkerFailures()

    def poll(self):
        return self.status

    def ask_to_stop(self):
        return 0

    def end_now(self):
        pass

    def is_heard(self):
        return True

    def beats(self):
        return {}

    def stacks(self, _seconds):
        return {}

    def failures(self):
        return self._failures


def save(run, step):
    directory = run.checkpoints / f"step_{step:08d}"
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text("{}")


def leave_exit_record(run, attempt, rank, code, reason):
    values = {"rank": rank, "exit_code": code, "reason": reason, "step": 4, "host": "node", "time": time.time()}
    run.exit_record(attempt, rank).write_text(json.dumps(values))
