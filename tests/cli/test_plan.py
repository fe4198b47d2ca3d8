"""``llm2bids plan`` against what recording then takes."""

import json
from dataclasses import replace

import pytest

from llm2bids import record
from llm2bids.cli.main import main
from llm2bids.scan import memory
from llm2bids.scan.plan import plan

SMALL = {"task_labels": ("pathology", "archeology"), "prompts_per_block": 5, "tokens_per_prompt": 4}
ARGV = ["--task", "pathology", "--task", "archeology", "--prompts-per-block", "5",
        "--tokens-per-prompt", "4"]  # fmt: skip


def weight(*folders):
    """Bytes of all files, hard links once."""
    files = [path.stat() for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum({file.st_ino: file.st_size for file in files}.values())


@pytest.fixture
def bare_config(tiny_model_dir, tmp_path):
    """A folder with a configuration and nothing else."""
    folder = tmp_path / "bare"
    folder.mkdir()
    config = tiny_model_dir("llama") / "config.json"
    (folder / "config.json").write_bytes(config.read_bytes())
    return folder


@pytest.mark.parametrize("compress", [True, False])
def test_what_is_planned_is_what_is_recorded(
    compress, bare_config, tiny_model_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    planned = plan(model=bare_config, n_participants=3, compress=compress, time=False, **SMALL)
    dataset = record(
        tmp_path / "dataset", model=tiny_model_dir("llama"), n_participants=3, device="cpu",
        compress=compress, progress=False, **SMALL,
    )  # fmt: skip
    numbers = planned.numbers()
    assert numbers["n_units"] == dataset.space.n_units
    assert tuple(numbers["shape"]) == dataset.space.shape
    assert numbers["n_runs"] == len(dataset.runs) == 6
    volumes = sum(dataset.load_run(run).shape[3] for run in dataset.runs)
    assert numbers["n_volumes"] == planned.n_volumes == volumes
    recorded = sum(len(dataset.transcript(run)) for run in dataset.runs)
    assert numbers["n_tokens"] == recorded + len(planned.scan.calibration) * 5
    assert numbers["repetition_time"] == dataset.t_r(dataset.runs[0])
    assert numbers["disk_bytes"] == pytest.approx(weight(tmp_path / "dataset"), rel=0.1)
    shard = weight(*(tmp_path / "dataset").glob("**/sub-01/func"))
    assert numbers["shard_disk_bytes"] == pytest.approx(shard, rel=0.1)


def test_memory_follows_the_longest_run_and_time_the_tokens(bare_config):
    one, many, long = (
        plan(model=bare_config, n_participants=n, time=n == 2, **{**SMALL, **more})
        for n, more in ((2, {}), (8, {}), (2, {"tokens_per_prompt": 40}))
    )
    assert one.memory_bytes == many.memory_bytes < long.memory_bytes
    assert many.disk_bytes > 3 * (one.disk_bytes - one.writing.template_bytes)
    assert many.total_seconds is None
    assert 0 < one.generation_seconds < one.total_seconds < long.total_seconds


def test_workers_share_the_time_of_generation(bare_config):
    scan = {"model": bare_config, "n_participants": 4, **SMALL}
    alone, pair = plan(**scan), plan(time=False, n_workers=2, **scan)
    assert (alone.n_workers, pair.n_workers) == (1, 2)
    shared = replace(alone, n_workers=2).generation_seconds / alone.generation_seconds
    n_prompts, n_resting = 4 * 2 * 15, len(alone.scan.calibration)
    assert shared == pytest.approx((n_prompts / 2 + n_resting) / (n_prompts + n_resting))
    n_shard = n_prompts / 4  # one participant, and no calibration before it
    shard = alone._generation(1, before=False) / alone.generation_seconds
    assert shard == pytest.approx(n_shard / (n_prompts + n_resting))
    assert 0 < alone.shard_seconds < alone.total_seconds
    of_three = replace(alone, n_workers=3).generation_seconds  # two participants after each other
    assert of_three == pytest.approx(shared * alone.generation_seconds)


def test_workers_take_memory_each_and_share_the_weights(bare_config, monkeypatch, caplog):
    scan = {"model": bare_config, "n_participants": 4, "time": False, **SMALL}
    alone, pair, own = plan(**scan), plan(n_workers=2, **scan), plan(dtype="float32", **scan)
    assert alone.total_bytes == alone.memory_bytes
    weights = pair.outline.weight_bytes
    assert pair.total_bytes == memory.PROCESS_BYTES + weights + 2 * pair.worker_bytes
    assert own.worker_bytes == pair.worker_bytes + weights
    assert f"(2 workers of {pair.worker_bytes / 1e6:.3g} MB" in pair.describe()
    free = round(1.5 * pair.worker_bytes)
    monkeypatch.setattr(memory, "available_bytes", lambda: free)
    assert plan(n_workers=2, **scan).n_workers == 1
    assert "1 worker in place of 2" in caplog.text


def test_the_command_prints_lines_or_json(bare_config, capsys):
    argv = ["plan", "--model", str(bare_config), "--participants", "2", *ARGV]
    assert main([*argv, "--no-time", "--effect-size", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "off_on_off: 2 participants, 4 runs of 60 volumes, 240 volumes" in said
    assert "time: not measured" in said
    assert "a participant as a shard (--participant-label): " in said
    assert "participants x" in said.split("recommended for d 0.5 at power 0.8")[1]
    assert "high-pass" not in said
    assert main([*argv, "--no-time", "--tr", "4"]) == 0
    assert "warning: repetition time (--tr) 4 s: the default high-pass" in capsys.readouterr().out
    assert main([*argv, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["n_volumes"] == 240
    assert 0 < numbers["shard_memory_bytes"] <= numbers["memory_bytes"]
    assert numbers["total_seconds"] > 0
    assert numbers["recommended"] is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--participants", "0"], "participants"),
        (["--participants", "500"], "offtopic"),
        (["--sites", "model.layers.9.*"], "model.layers.9.*"),
        (["--effect-size", "-1", "--no-time"], "effect size: found -1"),
        (["--power", "0.9", "--no-time"], "expected --effect-size D with them"),
        (["--device", "tpu9"], "tpu9"),
        (["--tokens-per-prompt", "128"], "129 tokens to generate after a prompt"),
        (["--tr", "1e-300"], "t_r (--tr) is 1e-300; expected 1e-06 or more"),
    ],
)
def test_what_cannot_be_planned_is_refused(argv, message, bare_config, capsys):
    assert main(["plan", "--model", str(bare_config), *ARGV, *argv]) in (1, 2)
    assert message in capsys.readouterr().err
