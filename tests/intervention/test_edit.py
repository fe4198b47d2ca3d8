"""Edits made from maps, networks and atlases of a dataset."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import llm2bids
from llm2bids.exceptions import InterventionError, ModelError, SpaceError, UsageError
from llm2bids.inference.provenance import Provenance
from llm2bids.intervention.edit import method_values, vector_edit
from llm2bids.intervention.subject import Subject
from llm2bids.intervention.units import choose_units, default_sites
from llm2bids.model.sites import find_sites
from llm2bids.network.network import make_network
from llm2bids.space.stat_map import select_units


@pytest.fixture(scope="module")
def values(scanned):
    """A map with a value of its own for each unit."""
    return np.random.default_rng(0).normal(size=scanned.space.n_units)


def units_of(edit, space):
    return {
        int(space.site_slices[part.site.name].start + unit)
        for part in edit.parts
        for unit in part.units
    }


def inside(space, role):
    return np.concatenate(
        [np.arange(space.n_units)[space.site_slices[s.name]] for s in space.sites if s.role == role]
    )


def test_the_largest_activations_at_their_calibration_mean(scanned, values):
    edit = llm2bids.make_edit(scanned, stat_img=values, top_percent=10)
    units = inside(scanned.space, "mlp.act_fn")  # 3 layers of 40
    largest = units[np.argsort(-np.abs(values[units]))[:12]]
    assert units_of(edit, scanned.space) == set(largest.tolist())
    for part in edit.parts:
        start = scanned.space.site_slices[part.site.name].start
        np.testing.assert_array_equal(part.values, scanned.calibration.mean[start + part.units])
    assert edit.kind == "set" and edit.weights_sha256 == scanned.settings["weights_sha256"]
    assert edit.criterion == "top 10 % |value| of 120 units of mlp.act_fn"


@pytest.mark.parametrize(("sign", "factor"), [("positive", 1), ("negative", -1)])
def test_one_sign_beyond_a_threshold(sign, factor, scanned, values):
    edit = llm2bids.make_edit(
        scanned, stat_img=values, threshold=1.0, sign=sign, sites=["residual"], method="zero"
    )
    units = inside(scanned.space, "residual")
    assert units_of(edit, scanned.space) == set(units[factor * values[units] > 1.0].tolist())
    assert all((part.values == 0).all() for part in edit.parts)


def test_an_image_and_its_network_give_the_same_units(scanned, values, tmp_path):
    space = scanned.space
    units = select_units(values, top_percent=2)
    network = make_network(
        space, units, {"effect": values[units]}, label="tea", criterion="top 2 % |effect|",
        provenance=Provenance.of(prompts=["p"]),
    )  # fmt: skip
    network.save(tmp_path / "tea.tsv")
    network.to_img(space, statistic="effect").to_filename(tmp_path / "tea.nii.gz")
    by_table = llm2bids.make_edit(scanned, network=tmp_path / "tea.tsv")
    by_image = llm2bids.make_edit(
        scanned, stat_img=tmp_path / "tea.nii.gz", threshold=0, sites=["all"]
    )
    assert units_of(by_table, space) == units_of(by_image, space) == set(network.units(space))
    assert by_table.prompts == {"p"}
    # nothing says what the image was made from: all that the dataset shows may have defined it
    assert by_image.prompts == subject_of(scanned).shown - set(scanned.calibration.prompt_ids)


def test_a_map_brings_the_prompts_that_it_was_made_from(scanned, values, tmp_path):
    image = scanned.space.to_grid(values.astype(np.float32))
    nib.Nifti1Image(image, scanned.space.affine).to_filename(tmp_path / "a_statmap.nii.gz")
    sidecar = Provenance.of(participants=["01"], runs=["r"], prompts=["p1", "p2"]).sidecar()
    (tmp_path / "a_statmap.json").write_text(json.dumps(sidecar))
    edit = llm2bids.make_edit(scanned, stat_img=tmp_path / "a_statmap.nii.gz")
    assert edit.made_from == {"participants": ("01",), "runs": ("r",), "prompts": ("p1", "p2")}


def test_a_head_of_the_atlas(scanned):
    edit = llm2bids.make_edit(
        scanned, atlas="heads", atlas_labels=["L01SelfAttnQProjH02"], method="zero"
    )
    (part,) = edit.parts
    assert part.site.name == "model.layers.1.self_attn.q_proj"
    assert part.units.tolist() == list(range(12, 18)) and not edit.prompts


def test_resampled_values_were_there(scanned, values):
    chosen = choose_units(scanned, stat_img=values, top_percent=5)
    rows, shown = method_values(scanned, "resample", chosen.units, seed=3)
    off = np.concatenate(
        [
            scanned.values(run)[
                scanned.transcript(run).dropna(subset="volume")["trial_type"].isna()
            ]
            for run in scanned.runs
        ]
    )[:, chosen.units]
    assert 30 <= len(rows) <= 64
    assert all((off == row).all(axis=1).any() for row in rows)
    assert {prompt.startswith("offtopic") for prompt in shown.prompts} == {True}
    edit = llm2bids.make_edit(scanned, stat_img=values, top_percent=5, method="resample", seed=3)
    assert edit.parts[0].values.shape[0] == len(rows)
    with pytest.raises(UsageError, match=r"seed \(--seed\) is -1"):
        llm2bids.make_edit(scanned, stat_img=values, top_percent=5, method="resample", seed=-1)


def test_scaling_and_adding(scanned, values):
    scale = llm2bids.make_edit(scanned, stat_img=values, method="scale", value=2.5)
    assert scale.kind == "scale" and all((p.values == 2.5).all() for p in scale.parts)
    add = llm2bids.make_edit(scanned, stat_img=values, method="add", value=-2)
    for part in add.parts:
        units = scanned.space.site_slices[part.site.name].start + part.units
        expected = -2 * values[units] * scanned.calibration.scale[units]
        np.testing.assert_allclose(part.values, expected, rtol=1e-5)


def test_the_edited_model_is_edited_while_it_is(scanned, values, tiny_loaded):
    loaded, ids = tiny_loaded("llama"), torch.tensor([[5, 9, 30, 7]])
    edit = llm2bids.make_edit(scanned, stat_img=values, top_percent=30, method="zero")
    with torch.no_grad():
        intact = loaded.model(ids).logits
        with llm2bids.edited(loaded, edit):
            ours = loaded.model(ids).logits
        with llm2bids.edited(loaded.model, edit) as model:
            theirs = model(ids).logits
        assert torch.equal(loaded.model(ids).logits, intact)
    assert torch.equal(ours, theirs) and not torch.allclose(ours, intact)


def test_an_edit_for_other_weights(scanned, values, tiny_loaded):
    edit = llm2bids.make_edit(scanned, stat_img=values)
    other = replace(edit, weights_sha256="f" * 64)
    refused = r"is for tiny-llama .*ffff.*, not for tiny-llama"
    with (
        pytest.raises(InterventionError, match=refused),
        llm2bids.edited(tiny_loaded("llama"), other),
    ):
        pass
    with (
        pytest.raises(InterventionError, match=r"OPTForCausalLM has no module model\.layers"),
        llm2bids.edited(tiny_loaded("opt").model, edit),
    ):
        pass


def test_a_vector_is_added_to_a_layer(scanned):
    edit = vector_edit(scanned.space, "model.layers.1", np.arange(24), strength=2)
    assert edit.strength == 2 and edit.n_units == 24


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "got nothing; expected one of a map"),
        ({"atlas": "heads"}, UsageError, "labels \\(none\\)"),
        ({"atlas": "heads", "atlas_labels": ["L01SelfAttnQH02"]}, UsageError, "near it: L0"),
        ({"atlas": "sites", "atlas_labels": ["x"], "top_percent": 2}, UsageError, "has none"),
        ({"map": 1, "threshold": 99}, InterventionError, "no unit of 120 .* is above 99"),
        ({"map": 1, "top_percent": 0}, SpaceError, "top_percent is 0"),
        ({"map": 1, "sites": ["mlp.actfn"]}, ModelError, "near it: mlp.act_fn"),
        ({"map": 1, "method": "constant"}, UsageError, "expected a number"),
        ({"map": 1, "method": "mean", "value": 2}, UsageError, "expected none"),
        ({"map": 1, "method": "cut"}, UsageError, "is 'cut'; expected 'mean', 'zero'"),
        ({"map": 1, "label": None}, UsageError, r"label \(--label\) is None; expected text"),
        ({"map": 1, "sites": "mlp"}, UsageError, "is 'mlp'; expected a list"),
        ({"map": 1, "atlas_labels": ["L00"]}, UsageError, "L00 without an atlas"),
        ({"map": 1j}, SpaceError, "array holds complex128; expected real numbers"),
        ({"map": 0}, InterventionError, "has a value above 0"),
    ],
)
def test_units_that_cannot_be_chosen(options, error, message, scanned, values):
    options = dict(options)
    if "map" in options:
        options["stat_img"] = values * options.pop("map")
    with pytest.raises(error, match=message):
        llm2bids.make_edit(scanned, **options)


def test_the_dataset_may_be_a_path(scanned, values):
    made, same = (llm2bids.make_edit(d, stat_img=values) for d in (scanned, scanned.path))
    assert made.metadata() == same.metadata()
    with pytest.raises(UsageError, match=r"is Space\(.*; expected Dataset or text or a path"):
        llm2bids.make_edit(scanned.space, stat_img=values)


def test_a_map_of_another_model(scanned, values):
    from llm2bids.space.header import image_header

    header = image_header(scanned.space, fingerprint="ab" * 32, dtype="float32")
    grid = scanned.space.to_grid(values.astype(np.float32))
    other = nib.Nifti1Image(grid, scanned.space.affine, header)
    with pytest.raises(SpaceError, match="made from another model"):
        llm2bids.make_edit(scanned, stat_img=other)


@pytest.mark.parametrize(
    ("architecture", "role"),
    [
        ("llama", "mlp.act_fn"),
        ("opt", "activation_fn"),
        ("gpt2", "mlp.act"),
        ("gpt_neox", "mlp.act"),
        ("gemma", "mlp.act_fn"),
    ],
)
def test_what_the_down_projection_is_given(architecture, role, tiny_loaded):
    sites = find_sites(tiny_loaded(architecture)).sites
    roles = {site.name: site.role for site in sites}
    names = default_sites(sites)
    assert len(names) == 3 and {roles[name] for name in names} == {role}


def test_no_default_without_an_mlp(tiny_loaded):
    with pytest.raises(InterventionError, match="no activation of an MLP"):
        default_sites(find_sites(tiny_loaded("mamba")).sites)
    sites = find_sites(tiny_loaded("llama")).sites
    without = [site for site in sites if site.role != "mlp.act_fn"]
    assert default_sites(without) == tuple(f"model.layers.{n}.mlp.gate_proj" for n in range(3))


def subject_of(dataset, seed=1):
    """The prompts of a dataset, without its model."""
    return Subject(dataset=dataset, effects=None, loaded=None, seed=seed, source="")


def test_held_out_prompts_were_seen_by_nothing(scanned):
    subject = subject_of(scanned)
    shown = subject.shown
    assert len(shown) == 2 * 3 * 9 + 5
    bank = scanned.prompts["prompt_id"][scanned.prompts["condition"] == "pathology"]
    used = frozenset(bank[:40])
    prompts = subject.held_out("pathology", 30, used)
    ids = {prompt.prompt_id for prompt in prompts}
    assert len(ids) == 30 and not ids & (shown | set(used))
    assert subject_of(scanned).held_out("pathology", 30, used) == prompts
    assert subject_of(scanned, seed=2).held_out("pathology", 30, used) != prompts
    n_left = 174 - 6 - len(used - shown)
    with pytest.raises(InterventionError, match=f"{n_left} of the 174 prompts .* expected 400"):
        subject.held_out("pathology", 400, used)


def test_the_command_makes_an_edit_and_bakes_it(scanned, model, tmp_path, capsys):
    from llm2bids.cli.main import main
    from llm2bids.model.load import load_model

    image = scanned.space.to_grid(np.arange(scanned.space.n_units, dtype=np.float32))
    nib.Nifti1Image(image, scanned.space.affine).to_filename(tmp_path / "map.nii.gz")
    command = ["edit", str(scanned.path), str(tmp_path / "e.json")]
    units = ["--map", str(tmp_path / "map.nii.gz"), "--top", "5%", "--method", "zero"]
    bake = ["--export-model", str(tmp_path / "baked"), "--model", model]
    assert main([*command, *units, "--label", "late", "-q"]) == 0
    edit = llm2bids.load_edit(tmp_path / "e.json")
    assert "6 units of mlp.act_fn (top 5 % |value|" in capsys.readouterr().out
    assert edit.label == "late" and [part.units.tolist() for part in edit.parts] == [
        [34, 35, 36, 37, 38, 39]
    ]
    assert main([*command, *units]) == 2 and "is there already" in capsys.readouterr().err
    assert main([*command, *bake, "--method", "mean", "--top", "3"]) == 2
    assert "--top: without a map, a network or an atlas" in capsys.readouterr().err
    assert main([*command, *bake, "--device", "cpu", "-q"]) == 0
    assert "logits within" in capsys.readouterr().out
    down = load_model(tmp_path / "baked", device="cpu").model.model.layers[2].mlp.down_proj
    assert not down.weight[:, 34:].any() and down.weight[:, :34].all()
    assert main([*command[:2], str(tmp_path / "none.json"), *bake]) == 1
    assert "cannot be read as an edit" in capsys.readouterr().err
