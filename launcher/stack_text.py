"""Reads the stacks that faulthandler and py-spy print: where a rank stands, and whether it waits for others. Pure."""

import re
from dataclasses import dataclass

# CPython's Python/traceback.c, _Py_DumpTracebackThreads: the newest thread first, the main thread last.
_FAULTHANDLER_THREAD = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):")
_FAULTHANDLER_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.+)$')
_SPY_THREAD = re.compile(r"^Thread \S+ \(.*\)(?P<name>: \".*\")?")
_SPY_FRAME = re.compile(r"^    (?P<function>\S.*) \((?P<file>.+):(?P<line>\d+)\)$")

_OURS = re.compile(r"^(?:.*/)?((?:llama_dist|data_pipeline)/[\w/]+\.py)$")
# Whoever has one of these on the stack waits for other ranks, or for its GPU, which then waits for theirs.
_COLLECTIVE_FILES = re.compile(
    r"(?:^|/)(?:torch/distributed/(?:distributed_c10d|rendezvous|_functional_collectives|nn/functional)"
    r"|deepspeed/comm/\w+|deepspeed/runtime/pipe/p2p)\.py$"
)
_WRAPPERS = frozenset({"wrapper", "log_wrapper", "_fn"})
# A thread that waits here waits for another thread of its process, which knows more.
_THREAD_WAIT_FILES = re.compile(r"(?:^|/)(?:threading|queue|concurrent/futures/(?:_base|thread))\.py$")
_BACKWARD = "_engine_run_backward"


@dataclass(frozen=True)
class Frame:
    """One call on a stack."""

    file: str
    line: int
    function: str

    @property
    def place(self) -> str:
        """File and line: from our packages' root, of other code the last two parts of the path."""
        ours = _OURS.match(self.file)
        return f"{ours[1] if ours else '/'.join(self.file.split('/')[-2:])}:{self.line}"


Stack = tuple[Frame, ...]
"""Innermost call first."""


@dataclass(frozen=True)
class Standing:
    """Where a rank stands."""

    collective: str | None
    """The call in which it waits for other ranks; None where it does not."""

    innermost: Frame

    ours: Frame
    """The innermost call of our own code; of a stack without any, the innermost of all."""

    def __str__(self) -> str:
        return f"{self.collective or self.innermost.function} ({self.ours.place})"


def read_standing(text: str) -> Standing | None:
    """Return where the rank of these stacks stands; None where the text has none."""
    stacks = parse_stacks(text)
    if not stacks:
        return None
    acting = _acting(stacks)
    ours = next((frame for frame in acting if _OURS.match(frame.file)), acting[0])
    return Standing(_collective(acting), acting[0], ours)


def parse_stacks(text: str) -> list[Stack]:
    """Return the stacks of all threads, the main thread's last. Lines of another shape are passed over."""
    stacks: list[list[Frame]] = []
    main: list[Frame] | None = None
    for line in text.splitlines():
        spy_thread = _SPY_THREAD.match(line)
        if _FAULTHANDLER_THREAD.match(line) or spy_thread:
            stacks.append([])
            if spy_thread and spy_thread["name"] == ': "MainThread"':
                main = stacks[-1]
        elif stacks and (frame := _FAULTHANDLER_FRAME.match(line) or _SPY_FRAME.match(line)):
            stacks[-1].append(Frame(frame["file"], int(frame["line"]), frame["function"]))
    ordered = [stack for stack in stacks if stack is not main] + ([main] if main else [])
    return [tuple(stack) for stack in ordered if stack]


def _acting(stacks: list[Stack]) -> Stack:
    """Return the main thread's stack, or that of the thread which it waits for."""
    main = next((stack for stack in reversed(stacks) if not stack[-1].file.endswith("threading.py")), stacks[-1])
    inner = main[0]
    others = [stack for stack in stacks if stack is not main]
    if inner.function == _BACKWARD:  # on CUDA the gradients' hooks run in threads of autograd's
        return next((stack for stack in others if _collective(stack)), main)
    if _THREAD_WAIT_FILES.search(inner.file):  # the end of a run waits for the thread that writes the checkpoint
        return next((stack for stack in others if any(_OURS.match(frame.file) for frame in stack)), main)
    return main


def _collective(stack: Stack) -> str | None:
    """Return the outermost call into the communication libraries: what the caller asked for."""
    calls = [frame.function for frame in stack if _COLLECTIVE_FILES.search(frame.file)]
    return next((function for function in reversed(calls) if function not in _WRAPPERS), None)
