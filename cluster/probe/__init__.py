"""A program that answers questions about the node it runs on: `python -m cluster.probe`, one per node.

It reads one JSON request a line on stdin, answers one JSON line each on stdout, and ends when stdin does. It loads the
standard library alone, torch only for the all-reduce. It changes nothing but for marker files that it removes again.
"""
