"""Workers that others start: dask, a real queue, Snakemake; the page's examples as they stand."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llm2bids import analyze_participants, record
from llm2bids.exceptions import UsageError
from llm2bids.scan.workers import read_cluster
from tests.brought import environment as own_environment
from tests.synthetic import contents

pytest.importorskip("dask_jobqueue", reason="extra cluster is not installed")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/run-on-a-cluster.md"
OPTIONS = {
    "task_labels": ("pathology", "randomstrings"),
    "prompts_per_block": 6,
    "tokens_per_prompt": 12,
    "n_participants": 3,
    "progress": False,
    "device": "cpu",
}
FLAGS = [
    *("--participants", "3", "--device", "cpu", "--task", "pathology", "--task", "randomstrings"),
    *("--prompts-per-block", "6", "--tokens-per-prompt", "12"),
]


@pytest.fixture(scope="module")
def serial(model, tmp_path_factory) -> Path:
    """Three participants, two tasks, one process; not to be changed."""
    path = tmp_path_factory.mktemp("serial") / "dataset"
    record(path, model=model, n_workers=1, **OPTIONS)
    return path


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": ":".join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}


def scan(path: Path, model: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "llm2bids.cli.main", "record", str(path), "-q"]
    command += ["--model", str(model), *FLAGS, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment(), text=True)


def writer_of(process: "subprocess.Popen[str]", path: Path) -> psutil.Process | None:
    """Find a worker that is in the middle of a participant: one run is there, the lock is held."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            files = [Path(file.path) for file in child.open_files()]
        except psutil.Error:
            continue
        for file in files:
            if file.name == "lock" and "shards" in file.parts:
                shard = file.parents[1]
                if list(shard.glob("sub-*/func/*_task-pathology_bold.nii.gz")):
                    return child
    return None


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_is_replaced_and_no_byte_differs(model, serial, tmp_path):
    path = tmp_path / "dataset"
    process = scan(path, model, "--cluster", "local", "--n-workers", "2")
    killed = None
    limit = time.monotonic() + 300
    while killed is None and process.poll() is None and time.monotonic() < limit:
        killed = writer_of(process, path)
        if killed is not None:
            killed.send_signal(signal.SIGKILL)
    message = process.communicate(timeout=400)[1]
    assert process.returncode == 0, message
    assert killed is not None
    assert contents(path) == contents(serial)
    assert not list((path / ".llm2bids/shards").glob("sub-*"))


@pytest.mark.slow
def test_participants_are_analysed_by_a_cluster(serial, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    analyze_participants(serial, here, progress=False)
    result = analyze_participants(serial, there, cluster="local", n_cpus=2, progress=False)
    assert len(result.done) == 6
    assert contents(there) == contents(here)


@pytest.mark.slow
def test_a_real_slurm_gives_the_bytes_of_one_process(model, serial, tmp_path):
    """Debian's slurm-wlm and munge, on loopback: workers of a queue, and an array and its merge."""
    script = ROOT / "scripts" / "slurm"
    done = subprocess.run([str(script), "start"], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    cluster = tmp_path / "slurm.yaml"
    keys = {"cores": 1, "memory": "2GB", "walltime": "00:20:00", "log-directory": str(tmp_path)}
    cluster.write_text(json.dumps({"jobqueue": {"slurm": {**keys, "interface": "lo"}}}))
    path = tmp_path / "dataset"
    try:
        process = scan(path, model, "--cluster", str(cluster), "--n-workers", "2")
        message = process.communicate(timeout=600)[1]
        assert process.returncode == 0, message
        array(path.with_name("array"), model, tmp_path)
    finally:
        subprocess.run([str(script), "stop"], check=False)
    assert contents(path) == contents(serial)
    assert contents(path.with_name("array")) == contents(serial)


def example(heading: str, path: Path, model: Path) -> list[str]:
    """Take the blocks below a heading of the page, for a small scan in place of the page's."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n### {heading}\n")[2]
    section = re.split(r"^##", section, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```\w+\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    for theirs, ours in {
        "--participants 16": f"--participants 3 --model MODEL {' '.join(FLAGS[2:])}",
        "--array=1-16": "--array=1-3",
        "range(1, 17)": "range(1, 4)",
    }.items():
        assert any(theirs in block for block in blocks) or theirs.startswith(("--array", "range"))
        blocks = [block.replace(theirs, ours) for block in blocks]
    assert not any(re.search(r"\b1[67]\b", block) for block in blocks)  # nothing large is left
    return [block.replace("BIDS_DIR", str(path)).replace("MODEL", str(model)) for block in blocks]


def run_example(command: list[str], folder: Path) -> None:
    """Run a command for which ``llm2bids`` is this checkout's."""
    script = folder / "bin" / "llm2bids"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m llm2bids.cli.main "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env=environment() | {"PATH": path}, capture_output=True, text=True,
        check=False, timeout=900,
    )  # fmt: skip
    logs = "\n".join(log.read_text() for log in folder.glob("slurm-*.out"))
    assert done.returncode == 0, f"{done.stderr[-4000:]}\n{logs}"


def array(path: Path, model: Path, folder: Path) -> None:
    """Scan by the page's array of jobs, and the merge that waits for it."""
    job, calls = example("A SLURM array", path, model)
    (folder / "scan.sh").write_text(job)
    calls = calls.replace("sbatch --dependency", "sbatch --wait --dependency")
    run_example(["bash", "-e", "-c", calls], folder)


@pytest.mark.slow
@pytest.mark.interop
def test_snakemake_gives_the_bytes_of_one_process(model, serial, tmp_path):
    path = tmp_path / "dataset"
    (snakefile,) = example("Snakemake", path, model)
    (tmp_path / "Snakefile").write_text(snakefile)
    python = own_environment("snakemake", "snakemake")
    run_example([str(python), "-m", "snakemake", "--cores", "2"], tmp_path)
    assert contents(path) == contents(serial)
    assert not list((path / ".llm2bids/shards").glob("sub-*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "jobqueue: {slurm: {cores: 1, memory: 2GB, memroy: 1}}",
            "'memroy'; did you mean 'memory'",
        ),
        ("jobqueue: {slurm: {cores: 1}}", "slurm needs 'memory', of one job"),
        ("jobqueue: {cray: {cores: 1}}", "cray: expected one of htcondor, lsf"),
        ("jobqueue: {slurm: {}, pbs: {}}", "one queue with its keys"),
        ("slurm: {cores: 1}", "expected 'jobqueue:' alone"),
        ("[1, 2", "not readable as YAML"),
    ],
)
def test_cluster_files_that_do_not_serve(text, message, tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        record(tmp_path / "dataset", model="/no/such/model", cluster=file)
    assert not (tmp_path / "dataset").exists()


def test_a_cluster_file(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("jobqueue:\n  slurm:\n    cores: 1\n    memory: 4GB\n    queue: short\n")
    assert read_cluster(file) == ("slurm", {"cores": 1, "memory": "4GB", "queue": "short"})
    with pytest.raises(UsageError, match="not readable as YAML"):
        read_cluster(tmp_path / "nothing.yaml")
    with pytest.raises(UsageError, match="without --prepare and --participant-label"):
        record(tmp_path / "dataset", cluster="local", prepare_only=True)
