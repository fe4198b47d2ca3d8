"""The lowest versions that are tested are those that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def release(version: str) -> tuple[int, ...]:
    """Numbers of a version, without zeros at the end: 3.1 and 3.1.0 are one."""
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def test_the_lowest_versions_are_those_of_pyproject():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {}
    for requirement in wanted:
        name, version = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement).groups()
        bounds[name] = release(version)
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    lowest = {name: release(version) for name, version in pins.items()}
    assert lowest.pop("torch") >= bounds.pop("torch")  # the one CPU build that is everywhere
    assert lowest == bounds
