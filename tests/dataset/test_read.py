import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from llm2bids.dataset.read import open_dataset
from llm2bids.exceptions import DatasetError, SpaceError, UsageError


def flip(n):
    """First axis back to front, on a grid of `n` voxels."""
    matrix = np.diag([-1.0, 1.0, 1.0, 1.0])
    matrix[0, 3] = n - 1
    return matrix


def test_space_and_calibration_come_back(dataset, synthetic):
    space, calibration = synthetic.make_space(), synthetic.make_calibration()
    assert dataset.space.sites == space.sites
    assert dataset.space.fingerprint() == space.fingerprint()
    assert dataset.fingerprint == space.fingerprint(calibration)
    np.testing.assert_array_equal(dataset.calibration.mean, calibration.mean)
    np.testing.assert_array_equal(dataset.calibration.sd, calibration.sd)
    assert dataset.calibration.prompt_ids == calibration.prompt_ids
    assert dataset.calibration.n_tokens == calibration.n_tokens


def test_activation_image_activation(dataset, synthetic):
    for run in dataset.runs:
        design = synthetic.make_design(int(run.participant_label), run.task)
        recorded = synthetic.make_recording(design).values
        step = dataset.calibration.scale / dataset.calibration.counts_per_sd
        vary = np.arange(synthetic.n_units) != synthetic.constant_unit
        error = np.abs(dataset.values(run) - recorded)[:, vary]
        assert (error <= 0.501 * step[vary] + 1e-5).all()


def test_transcript_comes_back(dataset, synthetic):
    recording = synthetic.make_recording(synthetic.make_design(1, "fossils"))
    read = dataset.transcript(dataset.runs[0])
    for name in ("token", "prompt_id", "trial", "position", "token_id", "block"):
        assert read[name].tolist() == recording.tokens[name].tolist()
    assert read["volume"].isna().tolist() == recording.tokens["volume"].isna().tolist()
    assert read["trial_type"].isna().tolist() == recording.tokens["trial_type"].isna().tolist()
    np.testing.assert_allclose(read["surprisal"], recording.tokens["surprisal"], rtol=1e-8)


def test_tokens_joined_with_prompts_and_events(dataset, synthetic):
    run = dataset.runs[0]
    table = dataset.token_table(run)
    events = dataset.events(run)
    assert len(table) == 24 * 6
    assert table["text"].notna().all()
    assert (table["text"].str.contains("\n")).all()
    on = table[table["trial_type"].notna()]
    assert set(on["condition"]) == {"fossils"}
    np.testing.assert_allclose(on.groupby("trial")["prompt_onset"].first(), events["onset"])
    volumes = table[table["volume"].notna()]
    np.testing.assert_allclose(volumes["onset"], volumes["volume"] * synthetic.t_r)


def test_runs_are_chosen_by_label(dataset):
    assert len(dataset.runs) == 4
    assert [run.name for run in dataset.select(participant_label=["sub-02"], task="votes")] == [
        "sub-02_task-votes"
    ]
    with pytest.raises(DatasetError, match="no run of participant 07; there are 01, 02"):
        dataset.select(participant_label=["07"])
    with pytest.raises(DatasetError, match="no run of task sleep; there are fossils, votes"):
        dataset.select(task="sleep")
    for wrong in ({"participant_label": "sub-02"}, {"participant_label": [2]}, {"task": ["votes"]}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} is .*; expected"):
            dataset.select(**wrong)


def test_describe(dataset):
    text = dataset.describe()
    assert "2 participants, 4 runs of 2 tasks (fossils, votes)" in text
    assert "133 units at 5 sites" in text


def test_what_is_not_a_dataset_of_ours(tmp_path, changed):
    with pytest.raises(DatasetError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="not a BIDS dataset"):
        open_dataset(tmp_path)
    (changed / "code/llm2bids_settings.json").unlink()
    with pytest.raises(DatasetError, match="a BIDS dataset, but not one that llm2bids wrote"):
        open_dataset(changed)


@pytest.mark.parametrize(
    "name",
    ["tpl-Tiny_space.json", "tpl-Tiny_units.tsv.gz", "func/tpl-Tiny_stat-std_boldmap.nii.gz"],
)
def test_a_missing_template(changed, name):
    (changed / "derivatives/llm2bids/tpl-Tiny" / name).unlink()
    with pytest.raises(DatasetError, match=f"the template lacks .*{name}"):
        open_dataset(changed)


def test_a_template_that_does_not_fit_itself(changed):
    path = changed / "derivatives/llm2bids/tpl-Tiny/tpl-Tiny_space.json"
    about = json.loads(path.read_text())
    about["weights_sha256"] = "00"
    path.write_text(json.dumps(about))
    with pytest.raises(DatasetError, match="fingerprint"):
        open_dataset(changed)
    path.write_text("{")
    with pytest.raises(DatasetError, match="not readable as JSON"):
        open_dataset(changed)


def test_a_damaged_series_is_named(changed):
    dataset = open_dataset(changed)
    run = dataset.runs[0]
    run.bold.write_bytes(b"no image")
    with pytest.raises(SpaceError, match=r"task-fossils_bold\.nii\.gz cannot be read as an image"):
        dataset.load_run(run)


def test_a_truncated_series_is_named(changed):
    dataset = open_dataset(changed)
    run = dataset.runs[0]
    whole = run.bold.read_bytes()
    run.bold.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpaceError, match=r"fossils_bold\.nii\.gz is truncated or damaged"):
        dataset.values(run)


def test_a_series_that_another_tool_wrote_anew(changed):
    dataset = open_dataset(changed)
    run = dataset.runs[0]
    before = dataset.values(run)
    image = dataset.load_run(run)
    data = image.get_fdata()
    flipped = nib.Nifti1Image(data[::-1], image.affine @ flip(data.shape[0]))
    run.bold.unlink()
    flipped.to_filename(run.bold)
    np.testing.assert_allclose(dataset.values(run), before, atol=1e-4)


def test_paths_that_lead_out_are_refused(changed, tmp_path):
    outside = tmp_path / "outside.tsv"
    outside.write_text("onset\tduration\ttrial_type\n")
    events = changed / "sub-01/func/sub-01_task-fossils_events.tsv"
    events.unlink()
    events.symlink_to(outside)
    with pytest.raises(DatasetError, match=r"leads out of the dataset, to .*outside\.tsv"):
        open_dataset(changed)


def test_a_template_that_leads_out_is_refused(changed, tmp_path):
    template = changed / "derivatives/llm2bids/tpl-Tiny"
    shutil.move(template, tmp_path / "elsewhere")
    template.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        open_dataset(changed)


def test_a_space_label_cannot_lead_out(changed):
    path = changed / "code/llm2bids_settings.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "space_label": "../../x"}))
    with pytest.raises(DatasetError, match="not allowed by BIDS"):
        open_dataset(changed)


def test_a_calibration_that_is_not_finite_is_refused(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    (path,) = tmp_path.glob("copy/derivatives/llm2bids/tpl-*/func/*_stat-std_boldmap.nii.gz")
    image = nib.load(path)
    values = image.get_fdata(dtype=np.float32)
    values[values > 0] = np.nan
    nib.Nifti1Image(values, image.affine, image.header).to_filename(path)
    with pytest.raises(DatasetError, match=f"{path.name}: .* units have no finite std"):
        open_dataset(tmp_path / "copy")
