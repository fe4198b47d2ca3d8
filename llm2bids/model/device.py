"""Where a model runs: one device or several, and as much of the machine as rounding depends on."""

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llm2bids.exceptions import UsageError

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

# Ways in which accelerate spreads modules over the devices that are there.
_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


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
        known = {int: f"cuda:{value}", str: value}.get(type(value), "unknown")
        try:
            if value != "disk":
                check_device(known)
        except UsageError:
            raise UsageError(
                f"device map {name}: {module} is on {value!r}, which is no device of this machine; "
                "expected cpu, disk, or the number of a GPU"
            ) from None
    return devices


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


@contextmanager
def computing_threads(device: str, n_threads: int) -> Iterator[None]:
    """Compute with so many threads where the processor does it, and as before afterwards.

    Sums that threads share round by their number: it is the scan's, not the machine's.
    """
    if check_device(device).type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def host(device: str) -> dict[str, object]:
    """Name the processor that computes, and the threads that share a sum where there are such."""
    chosen = torch.device(device)
    if chosen.type == "cuda":
        return {"processor": torch.cuda.get_device_name(chosen)}
    if chosen.type != "cpu":
        return {"processor": f"{_processor()} ({chosen.type})"}
    # kernels are chosen by what the processor can do, which a container or a variable may narrow
    kernels = torch.backends.cpu.get_cpu_capability()
    return {"processor": f"{_processor()} ({kernels})", "n_threads": torch.get_num_threads()}


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def shares_weights(loaded: "LoadedModel") -> bool:
    """Tell whether a model's weights are pages of their files, which processes share."""
    parameter = max(loaded.model.parameters(), key=torch.Tensor.numel, default=None)
    if parameter is None or parameter.device.type != "cpu":
        return False
    address = parameter.data_ptr()
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux: said to be its own, as that is the safe side
        return False
    for line in maps:
        span, *_, name = line.split(maxsplit=5)
        start, end = (int(edge, 16) for edge in span.split("-"))
        if start <= address < end:
            return name.strip().endswith(".safetensors")
    return False
