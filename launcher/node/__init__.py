"""The node agent: what the launcher runs on each node of an attempt, at the other end of a pipe or a socket."""
