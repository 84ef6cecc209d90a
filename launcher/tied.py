"""Start helper: ties this process to the life of its parent, then becomes the command after `--`.

    python -P -S tied.py [--log-directory DIR] -- PROGRAM ARGUMENTS...

A kill of the supervisor cannot leave ranks behind: the kernel sends SIGKILL to the agent when the supervisor ends,
and to the ranks when the agent ends (PR_SET_PDEATHSIG survives exec). With `--log-directory`, the output goes to
`rank_00000.out` and `.err` there. Standard library only, run by path, so that it costs some 20 ms.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PARENT_VARIABLE = "LLAMA_DIST_PARENT_PID"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Tie, redirect, exec. Returns never."""
    separator = arguments.index("--")
    options, command = arguments[:separator], arguments[separator + 1 :]
    _tie_to_parent(int(os.environ[PARENT_VARIABLE]))
    # A scheduler may send it to every process of a job. Ranks listen to it; it must not end the agent, nor a rank that
    # does not listen yet. What is ignored stays so across exec.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # asks a rank for its stacks, which it may not know yet how to give
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # exec keeps the pid: the children of the command are tied to it
    if options:
        assert options[0] == "--log-directory", options
        _send_output_to(Path(options[1]) / f"rank_{int(os.environ['RANK']):05d}")
    os.execv(command[0], command)  # noqa: S606 - an argument list, from the launcher's plan


def _tie_to_parent(parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it ended before the line above: the signal will never come
        sys.exit(f"the parent {parent_pid} ended before its child began")


def _send_output_to(stem: Path) -> None:
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        log = os.open(stem.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, descriptor)
        os.close(log)


if __name__ == "__main__":
    main(sys.argv[1:])
