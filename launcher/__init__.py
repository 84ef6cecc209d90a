"""Decides and starts: the command line, the plan, supervision, the run directory. Never imports torch."""
