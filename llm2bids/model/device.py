"""Where a model runs: one device, or its modules spread over several by a device map."""

import json
from pathlib import Path
from typing import Any

import torch

from llm2bids.exceptions import UsageError

_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways in which accelerate spreads modules over the devices that are there."""


def check_device(device: str) -> torch.device:
    """Find the device that a name means: auto, cpu, cuda, cuda:N or mps."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {device!r} is unknown; expected auto, cpu, cuda, cuda:N or mps")
    is_here = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not is_here[chosen.type]:
        raise UsageError(f"device {device!r} is not on this machine; use auto or cpu")
    return chosen


def read_device_map(name: str | Path, device: str) -> str | dict[str, Any]:
    """Read a device map: a way of accelerate's, or a JSON file of modules and devices."""
    if device != "auto":
        raise UsageError(
            f"device {device!r} and device map {str(name)!r}: expected one of the two; the map "
            "says where every module goes"
        )
    if str(name) in _MAPS:
        return str(name)
    try:
        devices = json.loads(Path(name).expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"device map {str(name)!r}: no such file, and no way to make one; expected "
            f"{', '.join(_MAPS)}, or a JSON file of modules and devices"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"device map {name}: cannot be read as JSON ({error})") from None
    if not isinstance(devices, dict) or not devices:
        raise UsageError(
            f"device map {name}: holds no object; expected modules and devices, such as "
            '{"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "cpu", ...}'
        )
    for module, value in devices.items():
        _check_place(name, module, value)
    return devices


def _check_place(name: str | Path, module: str, value: Any) -> None:
    """Refuse a device of a map that is not here."""
    if value == "disk":
        return
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise UsageError("no device")
        check_device(f"cuda:{value}" if isinstance(value, int) else value)
    except UsageError:
        raise UsageError(
            f"device map {name}: {module} is on {value!r}, which is no device of this machine; "
            "expected cpu, disk, or the number of a GPU"
        ) from None


def main_device(model: Any, fallback: torch.device) -> torch.device:
    """Find the device that a model's inputs go to and its offloaded modules run on."""
    for device in getattr(model, "hf_device_map", {}).values():
        if device not in ("cpu", "disk"):
            return torch.device(device)
    return fallback


def describe_devices(model: Any) -> str | None:
    """List the devices that hold a model's modules, None without a device map."""
    devices = getattr(model, "hf_device_map", {}).values()
    return ", ".join(sorted({str(device) for device in devices})) or None
