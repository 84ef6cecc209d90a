"""The `rehearse` verb: a failure drill with the user's own config on a lab of its own, before GPUs are paid for.

Start reading at `rehearse.py`; `drill.py` is the order in which each fault is injected, noticed and mended.
"""
