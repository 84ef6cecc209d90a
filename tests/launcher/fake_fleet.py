"""A fleet without agents: each host answers what a test says, at once."""

from launcher.fleet.node_state import NodeState
from launcher.node.installation import describe_installation


class FakeFleet:
    """`codes` are installations that differ from this one's; `refusals` what a host refuses: (what, host) to why."""

    def __init__(self, hosts):
        self.hosts = tuple(hosts)
        self.states = {host: NodeState(host) for host in hosts}
        self.down, self.codes, self.refusals = set(), {}, {}
        self.may_wait = True

    def state(self, host):
        return self.states[host]

    def reach(self, hosts):
        for host in hosts:
            state = self.states[host]
            if state.stage == "absent" and host not in self.down:
                state.code, state.facts = self.codes.get(host) or describe_installation(), host
                state.move("greeted")

    def add(self, link):
        link.close()

    def tell(self, message, hosts=None):
        for host in self.hosts if hosts is None else hosts:
            state = self.states[host]
            if reason := self.refusals.get((message["do"], host)):
                state.refusal = reason
            elif message["do"] == "sit":
                state.move("seated")
            elif message["do"] == "port":
                state.port = message["wanted"] or 4711

    def wait(self, is_met, _seconds):
        assert self.may_wait
        return is_met()

    def drop(self, host, reason):
        self.states[host].move("absent", self.states[host].refusal or reason)

    def take_signals(self):
        return []

    def close(self):
        pass
