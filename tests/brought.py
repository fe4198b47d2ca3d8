"""Packages that only a test needs, in a folder of their own: nothing installed is changed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[1] / ".cache"


def _pip(python: Path | str, folder: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().split("\n")[-1]
        pytest.skip(f"{' '.join(arguments)}: the package index did not give it ({reason})")
    (folder / "whole").touch()


def bring(patch: pytest.MonkeyPatch, *requirements: str) -> None:
    """Make packages importable for a test, without what they depend on."""
    for requirement in requirements:
        folder = CACHE / requirement
        if not (folder / "whole").exists():
            _pip(sys.executable, folder, "--no-deps", "--target", str(folder), requirement)
        patch.syspath_prepend(str(folder))


def runs_elsewhere(request: pytest.FixtureRequest, name: str, *requirements: str) -> bool:
    """Run a test in a process that has packages from its start; False where this one has them.

    transformers looks once for the packages that are there.
    """
    if importlib.util.find_spec(name) is not None:
        return False
    with pytest.MonkeyPatch.context() as patch:
        bring(patch, *requirements)
        paths = [path for path in sys.path if path.startswith(str(CACHE))]
    root = CACHE.parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "", request.node.nodeid],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(root)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return True


def environment(name: str, *requirements: str, alone: str | None = None) -> Path:
    """Make an environment with packages, and one (`alone`) without what it depends on."""
    folder = CACHE / name
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        _pip(python, folder, *requirements)
        if alone is not None:
            (folder / "whole").unlink()
            _pip(python, folder, "--no-deps", alone)
    return python


def source(requirement: str) -> Path:
    """Fetch a source distribution and unpack it, whether or not it can be built here."""
    folder = CACHE / requirement
    if not (folder / "whole").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        subprocess.run(  # pip unpacks it here, asks it what it needs, and may fail
            [*command, "--no-clean", "--no-deps", "--no-binary", ":all:", "-d", str(folder),
             requirement],
            env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, check=False,
        )  # fmt: skip
        if not any(folder.glob("**/PKG-INFO")):
            pytest.skip(f"{requirement}: the package index did not give its source")
        (folder / "whole").touch()
    return next(folder.glob("**/PKG-INFO")).parent
