"""A cluster in a box: network namespaces as hosts, with a real sshd and, if asked for, a real Slurm. Needs root, Linux.

`up.py` builds a lab, `faults.py` breaks and mends its nodes, `inside.py` runs programs on them, `down.py` removes it.
"""
