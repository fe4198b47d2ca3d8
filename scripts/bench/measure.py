"""What the benchmarks share: a process of its own with its peak memory, and the result on disk."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]

_LAUNCH = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
spent = time.perf_counter() - began
print(json.dumps([status, spent, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
"""A small process in between: Linux counts the memory of whoever starts a process as its own."""


def arguments(about: str, **numbers: int) -> argparse.Namespace:
    """Read whole numbers, and where the result goes.

    Parameters
    ----------
    about : str
        The benchmark's docstring.
    **numbers : int
        Default of each option.

    Returns
    -------
    Namespace
        The numbers, and ``output`` (Path or None).
    """
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def report(result: dict[str, Any], output: Path | None) -> None:
    """Print a result, and write it as JSON where a file is named."""
    text = json.dumps({"threads": torch.get_num_threads(), **result}, indent=1)
    print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spent(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock seconds that something takes, and processor seconds of all threads."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - used


def run_child(command: Sequence[str | Path], **environment: str) -> dict[str, float]:
    """Run a process of its own.

    Parameters
    ----------
    command : sequence of str or Path
        Arguments of this Python interpreter.
    **environment : str
        Variables that are added.

    Returns
    -------
    dict of str to float
        ``seconds``, ``cpu_seconds`` and ``peak_mb`` (largest resident memory, in MB).

    Raises
    ------
    RuntimeError
        If it fails.
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCH, sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    status, seconds, cpu_seconds, largest = json.loads(done.stdout)
    if status:
        raise RuntimeError(f"{' '.join(map(str, command))}: wait status {status}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": largest * unit / 1e6}
