"""The machine that a model runs on, as far as rounding depends on it."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from llm2bids.model.device import check_device
from llm2bids.model.load import LoadedModel


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


def shares_weights(loaded: LoadedModel) -> bool:
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
