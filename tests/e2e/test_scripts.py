"""The set-up scripts: what they refuse, and how they say it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The scripts without an environment."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("pyproject.toml", "lock.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def call(checkout: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "scripts" / script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def fake(folder: Path, name: str, text: str) -> Path:
    """A program that answers like another one on a machine that is not at hand."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder / name


@pytest.mark.parametrize("script", ["demo", "test"])
def test_an_old_python_is_refused_by_name(checkout, script):
    old = fake(checkout / "bin", "python3.9", 'case "$*" in *exit*) exit 1;; *) echo 3.9.18;; esac')
    done = call(checkout, script, PYTHON=str(old))
    assert done.returncode == 1
    assert "Python 3.9.18; llm2bids needs 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_does_not_run(checkout):
    done = call(checkout, "demo", PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "PYTHON=/no/such/python does not run" in done.stderr


def test_a_full_disk_is_said_before_anything_is_installed(checkout):
    fake(checkout / "bin", "df", 'echo "Filesystem Size"; echo "/dev/x 1000 900 1048576 90% /"')
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    done = call(checkout, "demo", PATH=path, PYTHON=sys.executable)
    assert done.returncode == 1
    assert "only 1 GB free" in done.stderr


@pytest.mark.slow
def test_no_network(checkout):
    done = call(checkout, "demo", PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert "No network?" in done.stderr


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("", 2, "audit: NOTHING WAS AUDITED: the database of vulnerabilities could not be reached"),
        ('{"dependencies": [{"name": "own", "skip_reason": "local"}]}', 2, "NOTHING"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}, {"name": "own"}]}', 0,
         "audit: 1 packages audited, 0 known vulnerabilities; not audited: own"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": '
         '[{"id": "CVE-1", "fix_versions": ["2"]}]}]}', 1, "a 1: CVE-1, fixed in: 2"),
    ],
)  # fmt: skip
def test_an_audit_that_did_not_happen_says_so(checkout, answer, status, said):
    """pip-audit answers nothing where its database cannot be reached."""
    for place in (checkout / ".venv/bin", checkout / ".cache/pip-audit/bin"):
        place.mkdir(parents=True)
    fake(checkout / ".venv/bin", "python", f'exec {sys.executable} "$@"')
    fake(checkout / ".cache/pip-audit/bin", "pip-audit", f"echo '{answer}'")
    done = call(checkout, "audit")
    assert done.returncode == status, done.stderr
    assert said in done.stdout


def test_the_gpu_script_says_where_there_is_none():
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    done = subprocess.run(
        [ROOT / "scripts/bench/gpu.sh", "/dev/null"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no GPU on this machine: nothing was measured" in done.stderr
