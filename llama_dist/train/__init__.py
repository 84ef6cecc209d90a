"""The training program: main.py assembles the parts, loop.py runs the steps."""
