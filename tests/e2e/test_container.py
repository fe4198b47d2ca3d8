"""The Containerfile: what it copies and installs exists; with podman and a base, it is built."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")


def instructions():
    """Instruction and words of each line, continued lines joined."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    return [line.split(maxsplit=1) for line in lines if line.strip()]


def test_two_stages_of_one_base():
    stages = [words for name, words in instructions() if name == "FROM"]
    assert stages == ["${BASE} AS build", "${BASE}"]
    assert instructions()[0] == ["ARG", "BASE=docker.io/library/python:3.11-slim"]


def test_what_is_copied_is_there_and_not_ignored():
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    copied = [
        source
        for name, words in instructions()
        if name == "COPY" and not words.startswith("--from")
        for source in words.split()[:-1]
    ]
    assert set(copied) == set(sent)
    for source in copied:
        assert (ROOT / source).exists(), source


def test_extras_and_model_are_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = (words for _, words in instructions() if words.startswith("EXTRAS="))
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= set(project["optional-dependencies"])
    model = re.search(r'EMBEDDED_MODEL="(\S+)"', (ROOT / "scripts" / "install.sh").read_text())[1]
    assert model in TEXT


def test_it_runs_llm2bids_as_any_user_without_network():
    last = dict(instructions())
    assert last["ENTRYPOINT"] == '["llm2bids"]'
    (environment,) = (w for name, w in instructions() if name == "ENV" and "HOME" in w)
    assert {"HOME=/tmp", "HF_HUB_OFFLINE=1", "LLM2BIDS_CACHE=/opt/llm2bids/cache"} <= set(
        environment.split()
    )
    assert "chmod -R a+rX /opt/llm2bids" in TEXT


@pytest.mark.slow
def test_the_image_is_built_and_runs(tmp_path):
    """Set LLM2BIDS_BASE to a local image; LLM2BIDS_BUILD adds options of podman build."""
    base = os.environ.get("LLM2BIDS_BASE")
    if shutil.which("podman") is None or base is None:
        pytest.skip("podman, or a base image in LLM2BIDS_BASE, is missing")
    options = os.environ.get("LLM2BIDS_BUILD", "").split()
    build = ["podman", "build", "--build-arg", f"BASE={base}", *options, "-t", "llm2bids-test"]
    subprocess.run([*build, str(ROOT)], check=True)
    out = tmp_path / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    run = ["podman", "run", "--rm", "--network", "none", "--user", "12345:0", "--read-only"]
    command = [*run, "-v", f"{out}:/out", "llm2bids-test", "demo", "/out", "--participants", "3",
               "--prompts-per-block", "3"]  # fmt: skip
    subprocess.run(command, check=True)
    assert (out / "report.html").is_file()
