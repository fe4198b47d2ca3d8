"""Findings of a dataset take the participant level's effects, whatever its model."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from llm2bids import open_dataset
from llm2bids.exceptions import InferenceError, NetworkError
from llm2bids.inference.analyze import analyze_group, analyze_participants
from llm2bids.network.dataset_findings import dataset_findings
from llm2bids.network.findings import Findings
from llm2bids.network.similarity import dice, top_units

TASKS = ("tea", "cocoa", "milk")
OPTIONS = {
    "default": {},
    "mask": {"mask_img": "mask.nii.gz"},
    "smoothing": {"smoothing_fwhm": 4.0},
    "confounds": {"confounds": ["surprisal", "prompt_tokens"]},
    "token": {"unit_of_analysis": "token"},
    "token with drifts": {
        "unit_of_analysis": "token", "noise_model": "ols", "high_pass": 0.05, "hrf_model": "glover",
    },
    "noise": {"noise_model": "ar1"},
    "contrasts": {"contrasts": {"twoTea": "2 * tea", "cocoa": "cocoa", "halfMilk": "0.5 * milk"}},
}  # fmt: skip


def written_maps(dataset, out_dir):
    """Read the participants' effect maps with nibabel, (n_participants, n_tasks, n_units)."""
    voxels = tuple(dataset.space.voxels.T)
    maps = []
    for who in ("01", "02", "03", "04"):
        for task in TASKS:
            name = f"sub-{who}/func/sub-{who}_task-{task}_*_stat-effect_statmap.nii.gz"
            (path,) = out_dir.glob(name)
            maps.append(nib.load(path).get_fdata()[voxels])
    return np.array(maps).reshape(4, 3, -1)


@pytest.fixture(scope="module")
def mask(drinks, tmp_path_factory):
    """A mask of every other unit."""
    space = open_dataset(drinks).space
    half = space.to_grid((np.arange(space.n_units) % 2).astype(np.uint8))
    path = tmp_path_factory.mktemp("mask") / "mask.nii.gz"
    nib.Nifti1Image(half, space.affine).to_filename(path)
    return path


@pytest.fixture(scope="module", params=OPTIONS)
def measured(request, drinks, mask, tmp_path_factory):
    """Model, output folder, and the findings with controls, of each kind of model."""
    options = {**OPTIONS[request.param]}
    if "mask_img" in options:
        options["mask_img"] = mask
    out_dir = tmp_path_factory.mktemp("findings") / "out"
    assert not analyze_participants(drinks, out_dir, progress=False, **options).failed
    analyze_group(drinks, out_dir, progress=False)
    found = dataset_findings(
        drinks,
        out_dir,
        top_percent=20,
        controls=["shuffled-labels", "shuffled-tasks", "random-networks"],
        n_control_draws=3,
        control_datasets=[drinks],
        progress=False,
    )
    return request.param, out_dir, found


def test_networks_have_the_mean_of_the_participants_maps(drinks, measured):
    name, out_dir, found = measured
    dataset = open_dataset(drinks)
    maps = written_maps(dataset, out_dir)
    inside = np.arange(98) % 2 == 1 if name == "mask" else np.ones(98, dtype=np.bool_)
    assert (found.n_units, found.n_units_of_space) == (inside.sum(), 98)
    assert not maps[..., ~inside].any()
    group = maps.mean(axis=0)
    others = group - (group.sum(axis=0) - group) / 2
    assert len(found.networks) == (3 if name == "contrasts" else 6)
    for index, one in enumerate(found.networks):
        units = one.network.units(dataset.space)
        assert inside[units].all()
        assert units.size == np.ceil(inside.sum() * 0.2)
        expected = (group if one.against == "off" else others)[index % 3]
        np.testing.assert_allclose(one.network.table["effect"], expected[units], rtol=1e-5)
        strongest = np.argsort(-np.abs(np.where(inside, expected, 0)))[: units.size]
        np.testing.assert_allclose(
            np.abs(expected[units]), np.abs(expected[strongest]), rtol=1e-4, atol=1e-5
        )


def test_group_maps_and_networks_are_one_number(drinks, measured):
    _, out_dir, found = measured
    space = open_dataset(drinks).space
    for one in found.networks:
        units = one.network.units(space)
        for stat in ("effect", "t", "cohensd", "pfdr"):
            (path,) = (out_dir / "group").glob(f"*_contrast-{one.label}_stat-{stat}_statmap.nii.gz")
            values = nib.load(path).get_fdata()[tuple(space.voxels.T)][units]
            np.testing.assert_allclose(one.network.table[stat], values, rtol=1e-4, atol=1e-6)


def test_overlap_repeatability_and_identification_are_of_the_same_maps(drinks, measured):
    name, out_dir, found = measured
    maps = written_maps(open_dataset(drinks), out_dir)
    maps = maps[..., 1::2] if name == "mask" else maps
    group = maps.mean(axis=0)
    np.testing.assert_allclose(found.overlap.correlation, np.corrcoef(group), atol=1e-5)
    marked = top_units(group, 0.2)
    assert found.overlap.dice[0, 2] == pytest.approx(dice(marked[0], marked[2]))
    pairs = np.corrcoef(maps[:, 1])[np.triu_indices(4, k=1)]
    r = np.tanh(np.arctanh(pairs).mean())
    assert found.repeatability.single_run.mean_r[1] == pytest.approx(r, abs=1e-5)
    for centred, correct in (
        (True, found.identification.n_correct),
        (False, found.identification.n_correct_with_mean),
    ):
        used = maps - maps.mean(axis=1, keepdims=True) if centred else maps
        hits = 0
        for who in range(4):
            templates = np.delete(used, who, axis=0).mean(axis=0)
            r = np.corrcoef(used[who], templates)[:3, 3:]
            hits += int((r.argmax(axis=1) == np.arange(3)).sum())
        assert hits == correct
    curve = found.by_prompts
    if curve is not None and curve.n_prompts[-1] == 4:  # all prompts: the plain accuracy
        np.testing.assert_allclose(curve.accuracies[0, -1], found.identification.accuracy)


def test_what_the_model_does_not_allow_is_left_out_with_its_reason(measured):
    name, _, found = measured
    controls = [control.name for control in found.controls]
    if name in ("token", "token with drifts", "noise"):
        assert found.repeatability.prompts is None
        assert found.by_prompts is found.by_tokens is None
        assert "shuffled-labels" not in controls
        for part in ("halves of the prompts", "by_prompts", "by_tokens", "shuffled-labels"):
            assert found.omitted[part]
    else:
        assert found.repeatability.prompts is not None
        assert found.by_tokens.n_tokens == (1, 2, 3)
        assert "shuffled-labels" in controls
    assert any("null data exceed" in text for text in found.warnings) == (
        name in ("token", "token with drifts", "noise")
    )
    assert {"shuffled-tasks", "random-networks", "drinks"} <= set(controls)


def test_a_control_dataset_is_fitted_by_the_same_model(measured):
    """The dataset as its own control: the same numbers."""
    _, _, found = measured
    control = found.controls[-1]
    assert control.name == "drinks"
    for measure in control.measures:
        assert measure.value == pytest.approx(measure.real, abs=1e-5)


def test_the_model_is_named_and_findings_come_back(drinks, measured):
    name, out_dir, found = measured
    said = {"smoothing": "smoothing 4 mm", "token": "every token, noise model ar1",
            "confounds": "confounds surprisal prompt_tokens", "noise": "noise model ar1",
            "token with drifts": "haemodynamic response glover"}  # fmt: skip
    assert said.get(name, "one image per prompt, noise model ols") in found.model
    found.save(out_dir, open_dataset(drinks).space)
    assert Findings.load(out_dir).model == found.model


def test_a_dataset_that_changed_since_is_refused(drinks, recorded, tmp_path):
    out_dir = tmp_path / "out"
    analyze_participants(drinks, out_dir, progress=False)
    other = shutil.copytree(drinks, tmp_path / "bids")
    for path in other.rglob("sub-03_task-tea*_desc-transcript_tokens.tsv"):
        text = path.read_text()
        head, *rows = text.splitlines(keepends=True)
        column = head.rstrip("\n").split("\t").index("trial_type")
        parts = [row.split("\t") for row in rows]
        kinds = [row[column] for row in parts]
        for row, kind in zip(parts, kinds[16:] + kinds[:16], strict=True):
            row[column] = kind
        path.write_text(head + "".join("\t".join(row) for row in parts))
    with pytest.raises((InferenceError, NetworkError), match=r"sub-03|events"):
        dataset_findings(other, out_dir, progress=False)


def test_findings_need_the_participant_level(drinks, tmp_path):
    with pytest.raises(InferenceError, match="run the participant level first"):
        dataset_findings(drinks, tmp_path, progress=False)


def test_a_pooled_test_of_another_model_is_refused(drinks, tmp_path):
    analyze_participants(
        drinks, tmp_path / "out", task=["tea"], confounds=["surprisal"], progress=False
    )
    with pytest.raises(InferenceError, match=r"pooled test: .*confounds surprisal"):
        analyze_group(drinks, tmp_path / "out", pooled_n_perm=9, progress=False)


def test_what_was_said_of_edited_events_holds_at_the_group_level(drinks, tmp_path):
    """--use of the participant level is read back: the group level does not ask again."""
    data = shutil.copytree(drinks, tmp_path / "bids")
    for path in data.rglob("sub-0*_task-tea_events.tsv"):
        text = path.read_text().splitlines()
        path.unlink()
        path.write_text("\n".join([text[0], *text[2:]]) + "\n")  # one on prompt is off
    out_dir = tmp_path / "out"
    with pytest.raises(InferenceError, match="events"):
        analyze_participants(data, out_dir, progress=False, task=["tea"])
    shutil.rmtree(out_dir)
    analyze_participants(data, out_dir, progress=False, use="events")
    analyze_group(data, out_dir, pooled_n_perm=9, progress=False)
    found = dataset_findings(data, out_dir, progress=False)
    assert found.model.endswith("conditions of the events")
    assert found.n_on == 3
    maps = written_maps(open_dataset(data), out_dir)
    network = found.networks[0].network
    units = network.units(open_dataset(data).space)
    np.testing.assert_allclose(network.table["effect"], maps.mean(axis=0)[0][units], rtol=1e-5)
