"""What the processor that kernels are compiled for can do."""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numba

_SLOW_PDEP = ("bdver4", "znver1", "znver2")  # these processors have it in microcode


def _has(feature: str) -> bool:
    """Returns whether kernels may use a feature of the processor, which numba's settings can forbid."""
    settings: Any = numba.config
    if settings.CPU_NAME is None and settings.CPU_FEATURES is None:
        return bool(llvmlite.binding.get_host_cpu_features().get(feature))
    return f"+{feature}" in (settings.CPU_FEATURES or "").split(",")


HAS_PDEP = _has("bmi2") and llvmlite.binding.get_host_cpu_name() not in _SLOW_PDEP
HAS_SHUFFLE = _has("ssse3")
HAS_MASKS = _has("avx512bw") and _has("avx512vl")
