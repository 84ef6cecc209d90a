"""Runs the probe on this process's stdin and stdout."""

from cluster.probe.serve import serve_standard_streams

if __name__ == "__main__":
    serve_standard_streams()
