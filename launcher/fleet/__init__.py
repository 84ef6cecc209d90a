"""The supervisor's side of several nodes: the links to their agents, and attempts that run on them."""
