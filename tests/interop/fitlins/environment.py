"""Make the environment that FitLins 0.11.0 lives in, if it is not there, and print its folder.

    python tests/interop/fitlins/environment.py

FitLins needs NumPy 1.23, which runs on Python 3.9 to 3.11 only, so it has an environment of its
own: $LLM2BIDS_FITLINS_VENV, or ``fitlins`` in the cache folder of llm2bids. Its packages are pinned
in lock-py*.txt beside this file. About two minutes and 1 GB. Exit status 3: there is no such
Python, or the package index cannot be reached.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from llm2bids.model.cache import cache_folder

LOCKS = {path.stem.removeprefix("lock-py"): path for path in Path(__file__).parent.glob("lock-*")}
VERSIONS = ("3.11", "3.10", "3.9")
"""Pythons that there is a lock file for, best first."""

NO_INDEX = ("Failed to establish a new connection", "NameResolutionError", "timed out", "Proxy")
"""What pip says if it cannot reach the package index."""

UNSUITABLE = 3


class CannotMakeError(Exception):
    """The machine lacks what the environment needs."""


def version_of(python: Path | str) -> str:
    """Ask an interpreter for its version, e.g. "3.11"; empty if it does not start."""
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def find_python() -> tuple[str, str]:
    """Find an interpreter that FitLins runs on, and its version."""
    pyenv = Path.home() / ".pyenv" / "versions"
    for version in VERSIONS:
        homes = sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)
        for name in (sys.executable, f"python{version}", *map(str, homes)):
            found = shutil.which(name)
            if found is not None and version_of(found) == version:
                return found, version
    raise CannotMakeError(f"FitLins needs Python {', '.join(VERSIONS)}; none of them was found")


def is_ready(venv: Path) -> bool:
    """Tell whether the environment has the packages of its lock file, no more and no less."""
    if not (venv / "bin" / "pip").is_file():
        return False
    lock = LOCKS.get(version_of(venv / "bin" / "python").replace(".", ""))
    done = subprocess.run(
        [venv / "bin" / "python", "-m", "pip", "freeze"],
        capture_output=True,
        text=True,
        check=False,
    )
    return lock is not None and sorted(done.stdout.split()) == sorted(lock.read_text().split())


def make(venv: Path) -> None:
    """Make the environment anew."""
    python, version = find_python()
    lock = LOCKS[version.replace(".", "")]
    print(f"making {venv} with Python {version} (two minutes)", file=sys.stderr)
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(venv)], check=True)
    done = subprocess.run(
        [
            *(venv / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "-q"),
            *("--no-deps", "--retries", "2", "-r", lock),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        if any(words in done.stderr for words in NO_INDEX):
            raise CannotMakeError("FitLins cannot be installed: pip reaches no package index")
        raise RuntimeError(f"pip could not install {lock.name}:\n{done.stderr[-2000:]}")


def main() -> int:
    """Print the folder of the environment; make it if need be."""
    named = os.environ.get("LLM2BIDS_FITLINS_VENV")
    venv = Path(named).expanduser() if named else cache_folder() / "fitlins"
    if named and (venv / "bin" / "fitlins").is_file():
        print(venv)  # the user's own: taken as it is
        return 0
    if named and venv.exists() and any(venv.iterdir()):
        print(f"LLM2BIDS_FITLINS_VENV: {venv} has no bin/fitlins", file=sys.stderr)
        return 1
    venv.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{venv}.lock"):
            if not is_ready(venv):
                make(venv)
    except CannotMakeError as error:
        print(error, file=sys.stderr)
        return UNSUITABLE
    print(venv)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
