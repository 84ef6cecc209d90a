"""Preflight on the real nodes: what would make a launch fail, or slow, found before it starts.

`visit.py` is what others call; `examine.py` holds the order of the checks, `*_checks.py` the verdicts, pure.
"""
