"""Whether there is a GPU that XGBoost can boost on."""

from __future__ import annotations

import ctypes
from typing import Literal, TypeAlias

from streamsvc.errors import ConfigurationError

__all__ = ["Device", "chosen_device", "gpus"]

Device: TypeAlias = Literal["cpu", "cuda"]

_DRIVER = "libcuda.so.1"


def chosen_device(wanted: Literal["auto", "cpu", "cuda"]) -> Device:
    """Where to boost: for `auto` on a GPU if there is one.

    Raises ConfigurationError for `cuda` where it cannot be: XGBoost itself would go on without.
    """
    if wanted == "cpu":
        return "cpu"
    why_not = _why_not()
    if why_not is None:
        return "cuda"
    if wanted == "cuda":
        raise ConfigurationError(f"--device cuda: {why_not}")
    return "cpu"


def gpus() -> int:
    """How many GPUs the driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int()
    # Both return CUDA_SUCCESS, which is 0.
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _why_not() -> str | None:
    import xgboost

    if not xgboost.build_info().get("USE_CUDA"):
        return "the installed XGBoost was built without CUDA, as the package xgboost-cpu is"
    if not gpus():
        return f"there is no GPU: the driver ({_DRIVER}) is not there, or shows none"
    return None
