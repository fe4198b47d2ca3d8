"""``llm2bids resample`` between a dataset in random arrangement and index order."""

import json

import nibabel as nib
import numpy as np
import pytest

from llm2bids import record
from llm2bids.cli.main import main
from llm2bids.report.page import write_report
from llm2bids.space.arrange import index_space

OPTIONS = {"task_labels": ("pathology",), "prompts_per_block": 2, "tokens_per_prompt": 2,
           "n_participants": 1, "progress": False, "device": "cpu"}  # fmt: skip


def test_a_map_goes_to_index_order_and_back(tiny_model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    model = tiny_model_dir("llama")
    shuffled = record(tmp_path / "a", model=model, arrangement="random", **OPTIONS)
    native = record(tmp_path / "b", model=model, **OPTIONS)
    source = shuffled.runs[0].preproc
    assert main(["resample", str(source), "--to", "index", "-o", "one.nii.gz"]) == 0
    assert "random to index arrangement" in capsys.readouterr().out
    plain = index_space(shuffled.space)
    assert np.array_equal(plain.to_units("one.nii.gz"), shuffled.space.to_units(source))
    assert np.array_equal(plain.voxels, native.space.voxels)
    assert not list(tmp_path.glob(".one*"))
    there = ["resample", str(source), "--to", str(native.path)]
    assert main(there) == 0
    name = source.name.replace(".nii.gz", "_index.nii.gz")
    back = ["resample", name, "--dataset", str(native.path), "--to", str(shuffled.path)]
    assert main([*back, "-o", "two.nii.gz"]) == 0
    assert np.array_equal(
        np.asanyarray(nib.load("two.nii.gz").dataobj), np.asanyarray(nib.load(source).dataobj)
    )
    assert main(there) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["resample", name, "--to", "index"]) == 2
    assert "--dataset BIDS_DIR" in capsys.readouterr().err


@pytest.mark.parametrize("level", ["participant", pytest.param("group", marks=pytest.mark.slow)])
def test_analyze_refuses_an_arrangement_that_saw_its_prompts(
    tiny_model_dir, tmp_path, monkeypatch, capsys, level
):
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    model = tiny_model_dir("llama")
    learned = record(tmp_path / "a", model=model, arrangement="functional", **OPTIONS)
    # with another seed, runs show prompts that the other dataset kept for its localizer
    other = {**OPTIONS, "seed": 7, "prompts_per_block": 20, "n_participants": 2}
    made = record(tmp_path / "b", model=model, arrangement=learned.path, **other)
    shown = {prompt for run in made.runs for prompt in made.transcript(run)["prompt_id"]}
    shared = sorted(shown & set(learned.space.layout.prompt_ids))
    assert shared
    capsys.readouterr()
    out = str(tmp_path / "out")
    clean = ["analyze", str(learned.path), out, "participant", "-q"]
    assert main(clean) == 0
    command = ["analyze", str(made.path), str(tmp_path / "circular"), "participant", "-q"]
    if level == "group":
        assert main([*command, "--allow-circular"]) == 0
        assert f"learned from {len(shared)} prompts" in capsys.readouterr().err
        command[3] = level
    assert main(command) == 1
    message = capsys.readouterr().err
    assert shared[0] in message
    assert "--allow-circular" in message
    assert main([*command, "--allow-circular", *(["--no-findings"] * (level == "group"))]) == 0
    folders = {"participant": "sub-*/func", "group": "group"}
    maps = list((tmp_path / "circular").glob(f"{folders[level]}/*_statmap.json"))
    said = f"CIRCULAR, no evidence: the arrangement of space {made.space.label} was learned from"
    for path in maps:
        about = json.loads(path.read_text())
        saw = set(shared) & set(about["Prompts"])
        assert about["CircularityCaution"].startswith(f"{said} {len(saw)} prompts")
    assert maps
    for path in (tmp_path / "out").glob(f"{folders['participant']}/*_statmap.json"):
        assert "CircularityCaution" not in path.read_text()
    if level == "group":
        page = write_report(
            tmp_path, bids_dir=made.path, analysis_dir=tmp_path / "circular", progress=False
        )
        assert f'<p class="caution">{said} {len(shared)} prompts' in page.read_text()
