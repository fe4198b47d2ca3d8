"""A scan of an edited model beside the intact one."""

import json

import numpy as np
import pytest

import llm2bids
from llm2bids.exceptions import DatasetError, RecordingError, UsageError
from llm2bids.inference.provenance import Provenance
from llm2bids.intervention.edit import vector_edit
from llm2bids.scan.plan import plan
from llm2bids.scan.record import record

PARADIGM = """
order = "off_on_off"
baseline = "offtopic"
prompts_per_block = 3
tokens_per_prompt = 2
calibration_prompts = 5
[tasks]
pathology = "pathology"
archeology = "archeology"
"""


@pytest.fixture(scope="module")
def options(tiny_model_dir, tmp_path_factory):
    file = tmp_path_factory.mktemp("paradigm") / "short.toml"
    file.write_text(PARADIGM)
    return {
        "model": tiny_model_dir("llama"), "paradigm": file, "n_participants": 2, "seed": 5,
        "device": "cpu", "progress": False, "sites": ["mlp", "residual"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def plain(options, tmp_path_factory):
    return record(tmp_path_factory.mktemp("plain") / "dataset", **options)


@pytest.fixture(scope="module")
def edit_file(plain, tmp_path_factory):
    values = np.random.default_rng(0).normal(size=plain.space.n_units)
    edit = llm2bids.make_edit(plain, stat_img=values, top_percent=20, method="zero", label="nopath")
    return edit.save(tmp_path_factory.mktemp("edit") / "edit.json")


@pytest.fixture(scope="module")
def edited(options, edit_file, tmp_path_factory):
    return record(tmp_path_factory.mktemp("edited") / "dataset", edit=edit_file, **options)


def test_both_sessions_of_every_participant_and_task(edited):
    assert edited.sessions == ("intact", "nopath")
    names = {run.name for run in edited.runs}
    assert names == {
        f"sub-{who}_ses-{session}_task-{task}"
        for who in ("01", "02")
        for session in ("intact", "nopath")
        for task in ("archeology", "pathology")
    }
    for run in edited.runs:
        assert run.bold.parent.relative_to(edited.path).parts == (
            f"sub-{run.participant_label}", f"ses-{run.session}", "func",
        )  # fmt: skip
    anatomy = edited.path.glob("sub-*/**/*_T1w.nii.gz")
    assert {path.name for path in anatomy} == {
        "sub-01_ses-intact_T1w.nii.gz", "sub-02_ses-intact_T1w.nii.gz",
    }  # fmt: skip


def test_the_same_prompts_and_an_edit_at_every_token(edited, edit_file):
    edit = llm2bids.load_edit(edit_file)
    space = edited.space
    units = np.concatenate([space.site_slices[p.site.name].start + p.units for p in edit.parts])
    for who in ("01", "02"):
        intact, lesioned = (
            next(r for r in edited.runs if r.name == f"sub-{who}_ses-{ses}_task-pathology")
            for ses in edited.sessions
        )
        shown = [edited.transcript(run)["prompt_id"].tolist() for run in (intact, lesioned)]
        assert shown[0] == shown[1] and not set(shown[0]) & edit.prompts
        values = edited.values(lesioned)[:, units]
        # stored with half a count of 1/100 sd
        assert np.abs(values / edited.calibration.scale[units]).max() <= 0.0351
        assert np.abs(edited.values(intact)[:, units]).max() > 0.1
        sidecar = edited.sidecar(lesioned)
        assert sidecar["Edit"] == "nopath" and sidecar["EditFile"] == "code/nopath_edit.json"
        assert "Edit" not in edited.sidecar(intact)
        seeds = [edited.sidecar(run)["Seed"] for run in (intact, lesioned)]
        assert seeds[0] == seeds[1]
    kept = llm2bids.load_edit(edited.path / "code/nopath_edit.json")
    assert kept.metadata() == edit.metadata()


def test_space_and_calibration_are_the_intact_model_s(edited, plain, options, tmp_path):
    assert edited.space.fingerprint() == plain.space.fingerprint()
    assert not set(edited.calibration.prompt_ids) & {
        prompt for run in plain.runs for prompt in plain.transcript(run)["prompt_id"]
    }


def test_prompts_that_defined_the_edit_are_in_no_bank(edited, edit_file):
    assert not set(edited.prompts["prompt_id"]) & llm2bids.load_edit(edit_file).prompts


def test_going_on_adds_what_is_missing(edited, options, edit_file, tmp_path):
    import shutil

    copied = tmp_path / "dataset"
    shutil.copytree(edited.path, copied)
    for session in ("intact", "nopath"):
        (copied / f"sub-02/ses-{session}/func").joinpath(
            f"sub-02_ses-{session}_task-pathology_bold.nii.gz"
        ).unlink()
    again = record(copied, edit=edit_file, **options)
    assert len(again.runs) == 8
    for run, first in zip(again.runs, edited.runs, strict=True):
        assert run.bold.read_bytes() == first.bold.read_bytes()


def test_a_dataset_gains_and_loses_no_session(plain, edited, options, edit_file):
    with pytest.raises(DatasetError, match="without sessions and cannot gain one"):
        record(plain.path, edit=edit_file, **options)
    with pytest.raises(DatasetError, match=r"sessions intact and nopath; .*code/nopath_edit.json"):
        record(edited.path, **options)
    other = llm2bids.make_edit(
        plain, stat_img=np.ones(plain.space.n_units), top_percent=5, label="nopath"
    ).save(edit_file.with_name("other.json"))
    with pytest.raises(DatasetError, match=r"edit: .* in the dataset"):
        record(edited.path, edit=other, **options)


def test_a_session_needs_a_name_of_its_own(plain, options, tmp_path):
    values = np.ones(plain.space.n_units)
    edit = llm2bids.make_edit(plain, stat_img=values, label="intact").save(tmp_path / "e.json")
    with pytest.raises(UsageError, match="label is 'intact'"):
        record(tmp_path / "new", edit=edit, **options)


def test_banks_without_the_defining_prompts_may_be_too_small(plain, options, tmp_path):
    bank = plain.prompts["prompt_id"][plain.prompts["condition"] == "pathology"]
    edit = vector_edit(
        plain.space, "model.layers.1", np.ones(24), made_from=Provenance.of(prompts=bank[:-4])
    ).save(tmp_path / "e.json")
    with pytest.raises(llm2bids.Llm2bidsError, match="bank 'pathology': serves 1 participants"):
        record(tmp_path / "new", edit=edit, **options)


def test_a_strength_that_makes_nan_is_named(plain, options, tmp_path):
    edit = vector_edit(
        plain.space, "model.layers.1", np.full(24, 3e38), strength=2, label="steer"
    ).save(tmp_path / "e.json")
    with pytest.raises(RecordingError, match=r"ses-steer\): module .*at prompt .* lower the str"):
        record(tmp_path / "new", edit=edit, **options)


def test_an_edit_for_other_weights(options, edit_file, tmp_path):
    content = json.loads(edit_file.read_text()) | {"WeightsSHA256": "0" * 64}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    with pytest.raises(llm2bids.Llm2bidsError, match="edit nopath is for tiny-llama"):
        record(tmp_path / "new", edit=other, **options)


def test_a_plan_counts_both_sessions(options, edit_file):
    asked = {name: value for name, value in options.items() if name != "progress"}
    plain, both = plan(time=False, **asked), plan(time=False, edit=edit_file, **asked)
    assert both.n_volumes == 2 * plain.n_volumes


@pytest.fixture(scope="module")
def analysed(options, edit_file, tmp_path_factory):
    """Three participants, so that there are findings."""
    from llm2bids.inference.analyze import analyze_group, analyze_participants

    root = tmp_path_factory.mktemp("three")
    dataset = record(root / "dataset", edit=edit_file, **(options | {"n_participants": 3}))
    first = analyze_participants(dataset.path, root / "analysis", progress=False)
    assert not first.failed and len(first.done) == 3 * 2 * 2
    group = analyze_group(dataset.path, root / "analysis", progress=False)
    return dataset, root / "analysis", group


def test_each_session_and_their_difference_have_group_maps(analysed):
    dataset, out_dir, group = analysed
    assert {result.session for result in group.contrasts} == {"intact", "nopath", "nopathVsIntact"}
    assert all(result.participants == ("01", "02", "03") for result in group.contrasts)

    def values(session, who=None):
        folder = out_dir / ("group" if who is None else f"sub-{who}/ses-{session}/func")
        start = f"ses-{session}" if who is None else f"sub-{who}_ses-{session}"
        name = f"{start}_task-pathology_space-tinyllama_contrast-pathology_stat-effect_statmap"
        sidecar = json.loads((folder / f"{name}.json").read_text())
        return dataset.space.to_units(folder / f"{name}.nii.gz"), sidecar

    change, sidecar = values("nopathVsIntact")
    expected = np.mean(
        [values("nopath", who)[0] - values("intact", who)[0] for who in ("01", "02", "03")], axis=0
    )
    np.testing.assert_allclose(change, expected, atol=1e-6)
    assert np.abs(change).max() > 0.1
    assert "ses-nopath minus ses-intact" in sidecar["Description"]
    assert {run.split("_")[1] for run in sidecar["Runs"]} == {"ses-intact", "ses-nopath"}
    np.testing.assert_allclose(
        values("intact")[0],
        np.mean([values("intact", who)[0] for who in ("01", "02", "03")], axis=0),
        atol=1e-6,
    )


def test_findings_are_of_the_intact_session(analysed):
    from llm2bids.inference.effects import read_effects
    from llm2bids.inference.inputs import open_inputs

    dataset, out_dir, _ = analysed
    results = llm2bids.dataset_findings(dataset.path, out_dir, progress=False)
    assert {run.split("_")[1] for run in results.networks[0].network.provenance.runs} == {
        "ses-intact"
    }
    effects = read_effects(open_inputs(dataset.path), out_dir)
    assert {run.split("_")[1] for run in effects.provenance.runs} == {"ses-intact"}


def test_the_report_shows_a_dataset_with_sessions(analysed, tmp_path):
    dataset, out_dir, _ = analysed
    page = llm2bids.write_report(
        out_dir, bids_dir=dataset.path, output=tmp_path / "page.html", progress=False
    )
    assert "nopath" in page.read_text()


def test_a_dataset_with_sessions_is_checked(analysed):
    from llm2bids.dataset.check import check_dataset

    assert not check_dataset(analysed[0].path).faults


@pytest.mark.interop
def test_the_validator_and_pybids_take_the_sessions(edited):
    from bids.layout import BIDSLayout

    result = llm2bids.validate(edited.path)
    assert (result.n_errors, result.n_warnings) == (0, 0), result.describe()
    layout = BIDSLayout(edited.path, derivatives=edited.derivative)
    try:
        assert layout.get_sessions() == ["intact", "nopath"]
        results = layout.get(suffix="bold", extension=".nii.gz", session="nopath", scope="raw")
        assert len(results) == 4
        events = results[0].get_associations("events") or layout.get(
            suffix="events", session="nopath", subject="01", task="archeology"
        )
        assert events
    finally:
        layout.session.close()
        layout.connection_manager.engine.dispose()
