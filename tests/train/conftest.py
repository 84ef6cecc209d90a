"""Fixtures of the loop's tests."""

from loop_fakes import parts, start

__all__ = ["parts", "start"]
