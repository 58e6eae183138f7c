"""What the benchmarks share: each says at its start how long it takes, and shows every figure once it is measured."""

from __future__ import annotations

import time

_began = time.monotonic()


def begin(takes: str) -> None:
    """Says how long the benchmark takes, and on what; with other options it is another time."""
    global _began
    _began = time.monotonic()
    print(f"takes {takes}; each figure is printed as it is measured, with the seconds so far", flush=True)


def say(text: str) -> None:
    """Prints a line with the seconds so far."""
    print(f"{time.monotonic() - _began:6.0f} s  {text}", flush=True)
