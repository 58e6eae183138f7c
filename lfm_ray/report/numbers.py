"""Numbers and settings as text."""

from __future__ import annotations

import math


def decimal(value: float, digits: int = 3) -> str:
    """`0.814`; `-` for nan."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def spread(mean: float, std: float, digits: int = 1) -> str:
    """`81.4 ± 1.3`; the mean alone for a single run, whose standard deviation is nan."""
    return f"{mean:.{digits}f}" if math.isnan(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def p_value(p: float) -> str:
    """`0.018`, `2e-05`."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def setting(value: object, digits: int = 4, none: str = "None") -> str:
    """The value of a setting: floats with `digits` significant digits, lists as `[0.5, 1]`, None as `none`."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, list):
        return f"[{', '.join(setting(entry, digits, none) for entry in value)}]"
    return none if value is None else str(value)


def quantity(value: float) -> str:
    """`1.41 k`, `23.5 M`, `4.1 G`: three significant digits; `-` for nan."""
    if math.isnan(value):
        return "-"
    power = min(4, max(0, int(math.log10(abs(value)) // 3))) if value else 0
    if power < 4 and float(f"{value / 1000**power:.3g}") >= 1000:
        power += 1
    return f"{value / 1000**power:.3g} {' kMGT'[power]}".strip()
