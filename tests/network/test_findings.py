"""The four findings on simulated experiments with known truth, and their files."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import InferenceError, NetworkError
from llm2bids.inference.prompts import PromptSamples, effects_of
from llm2bids.inference.provenance import require_disjoint
from llm2bids.inference.second_level import group_statistics
from llm2bids.model.units import Site
from llm2bids.network.dataset_findings import check_maps, measure_findings
from llm2bids.network.findings import (
    FOLDER,
    TABLE_COLUMNS,
    Findings,
    remove_findings,
)
from llm2bids.network.network import load_network
from llm2bids.network.options import FindingsOptions
from llm2bids.network.stored import to_plain
from llm2bids.network.task_networks import label_clusters, task_networks
from llm2bids.space.arrange import build_space

FAST = {"n_boot": 20, "n_perm": 50, "n_draws": 3}


@pytest.fixture(scope="module")
def space():
    sites = (
        Site(name="layers.0.mlp", layer=0, role="mlp", width=240),
        Site(name="layers.0.attn", layer=0, role="attn", width=160, n_heads=4, head_size=40),
        Site(name="layers.1.mlp", layer=1, role="mlp", width=300),
    )
    return build_space(sites, label="Toy", model_name="toy", weights_sha256="ab" * 32)


def measure(means, space, **options):
    """Measure the findings of prompts' images."""
    effects = effects_of(means)
    return measure_findings(
        effects,
        PromptSamples(prompts=means, first_tokens={1: effects}, omitted={}),
        space,
        FindingsOptions(**FAST | options),
        sizes=(4, 6, 3),
    )


@pytest.fixture
def found(simulate, patterns, space):
    return measure(simulate(patterns), space)


def test_planted_networks_are_found(found, patterns, space):
    assert [one.against for one in found.networks] == ["off"] * 4 + ["others"] * 4
    for task, one in enumerate(found.networks[:4]):
        planted = set(np.flatnonzero(patterns[task]))
        units = set(one.network.units(space).tolist())
        assert len(units) == len(one.network) == 35
        assert units <= planted
        assert one.n_fdr > 25
        assert one.n_fdr_anywhere >= one.n_fdr
        signs = np.sign(patterns[task])[one.network.units(space)]
        np.testing.assert_array_equal(np.sign(one.network.table["effect"]), signs)


def test_the_planted_pair_overlaps_first_and_maps_come_again(found):
    first = found.overlap.pairs().iloc[0]
    assert {first["task_a"], first["task_b"]} == {"taskA", "taskB"}
    assert found.identification.accuracy == 1.0
    assert found.repeatability.single_run.mean_r.min() > 0.3
    assert found.repeatability.participants.mean_r.min() > 0.5
    assert found.repeatability.prompts.mean_r.min() > 0.5
    shuffled = found.controls[1]
    assert shuffled.measures[0].value == pytest.approx(0.25, abs=0.1)


def test_nothing_is_found_in_noise(simulate, space):
    found = measure(simulate(np.zeros((4, 700), np.float32)), space)
    low, high = found.identification.interval()
    assert low < 0.25 < high
    assert np.abs(found.repeatability.participants.mean_r).max() < 0.2
    assert sum(one.n_fdr_anywhere for one in found.networks[:4]) < 10


def test_every_number_says_its_data(found):
    networks = found.networks[0].network.provenance
    assert networks.participants == {"01", "02", "03", "04", "05"}
    assert all("taskA" in name for name in networks.runs)
    assert found.networks[4].network.provenance == found.provenance
    with pytest.raises(NetworkError, match="share"):
        require_disjoint(networks, found.provenance, what="a test of the network")


@pytest.mark.parametrize("share", ["on", "off"])
def test_a_leak_is_refused_unless_asked_for(simulate, patterns, space, share):
    leaking = simulate(patterns, share=share)
    with pytest.raises(NetworkError, match="share"):
        measure(leaking, space)
    found = measure(leaking, space, allow_circular=True)
    assert any(warning.startswith("CIRCULAR") for warning in found.warnings)


def test_a_shared_baseline_is_refused_unless_asked_for(simulate, patterns, space):
    shared = simulate(patterns, shared_baseline=True)
    with pytest.raises(NetworkError, match="saw prompt off-any-01-0 more than once"):
        measure(shared, space)
    found = measure(shared, space, allow_circular=True)
    assert any("a shared baseline makes their maps alike" in text for text in found.warnings)
    assert any(text.startswith("CIRCULAR") for text in found.warnings)


def test_too_few_participants_or_tasks(simulate, patterns, space):
    with pytest.raises(NetworkError, match="found 2 participants and 4 tasks; expected 3 or more"):
        measure(simulate(patterns, n_participants=2), space)
    with pytest.raises(NetworkError, match="found 5 participants and 1 tasks"):
        measure(simulate(patterns[:1]), space)


def test_the_small_table(found):
    table = found.table()
    assert tuple(table.columns) == TABLE_COLUMNS
    assert list(dict.fromkeys(table["finding"])) == [
        *("identification", "overlap", "repeatability", "networks")
    ]
    accuracy = table.iloc[0]
    assert accuracy["value"] == 1.0
    assert accuracy["low"] < 1.0 == accuracy["high"]
    assert "20 of 20" in accuracy["text"]
    assert table[table["finding"] == "networks"]["value"].tolist() == [35.0] * 4


def test_clusters_are_of_one_sign_and_one_site(space):
    values = np.zeros(space.n_units)
    values[[0, 1, 2]] = 1.0
    values[3] = -1.0
    values[[240, 241]] = 1.0
    found = label_clusters(values, space)
    assert found[[0, 1, 2]].tolist() == [1, 1, 1]
    assert found[[240, 241]].tolist() == [2, 2]
    assert found[3] == 3
    assert np.count_nonzero(found) == 6
    assert not label_clusters(np.zeros(space.n_units), space).any()


def test_networks_against_others_need_two_tasks(simulate, patterns, space):
    with pytest.raises(InferenceError, match="found one task"):
        task_networks(
            effects_of(simulate(patterns[:1])), space, FindingsOptions(), against="others"
        )


def test_networks_by_effect_size_and_false_discovery_rate(simulate, patterns, space):
    effects = effects_of(simulate(patterns))
    strong = FindingsOptions(min_cohens_d=1.5)
    for index, one in enumerate(task_networks(effects, space, strong)):
        maps = group_statistics(effects.values[:, index])
        expected = np.flatnonzero((np.abs(maps.cohensd) > 1.5) & (maps.pfdr < 0.05))
        assert expected.size > 0
        assert sorted(one.network.units(space)) == expected.tolist()
        assert one.network.criterion == "|cohensd| > 1.5 and false discovery rate 0.05"
        assert one.n_fdr == len(one.network)
        assert one.top_percent is None
    assert len(task_networks(effects, space, FindingsOptions(min_cohens_d=1e6))[0].network) == 0


def test_files(found, space, tmp_path):
    files = found.save(tmp_path, space)
    assert all(path.is_file() for path in files)
    folder = tmp_path / FOLDER
    content = json.loads((folder / "findings.json").read_text())
    assert "network" not in content["networks"][0]  # units are in tables of their own
    assert "NaN" not in (folder / "findings.json").read_text()
    assert content["tasks"] == list(found.tasks)
    assert content["n_units"] == content["n_units_of_space"] == 700
    assert content["model"] == "one image per prompt, noise model ols"
    assert content["identification"]["accuracy"] == 1.0
    assert content["identification"]["folds"][1] == {
        "tested": ["02"],
        "defining": ["01", "03", "04", "05"],
    }
    assert np.array(content["overlap"]["dice"]).shape == (4, 4)
    for entry in content["networks"]:
        network = load_network(folder / entry["table"])
        assert len(network) == entry["n_units"] == 35
        assert entry["n_clusters"] == network.table["cluster"].max()
        values = space.to_units(folder / entry["image"])
        np.testing.assert_allclose(values[network.units(space)], network.table["effect"],
                                   rtol=1e-5)  # fmt: skip
        assert np.count_nonzero(values) == 35
    curve = pd.read_csv(folder / "identification_curve.tsv", sep="\t")
    assert not curve.duplicated(["n_tokens", "n_prompts"]).any()
    for path in folder.glob("*.tsv"):
        assert f"`{path.name}`" in (folder / "README.md").read_text()


def test_findings_are_read_as_they_were_written(simulate, patterns, space, tmp_path):
    found = measure(simulate(patterns), space, controls=("shuffled-labels",), n_control_draws=2)
    found.save(tmp_path, space)
    loaded = Findings.load(tmp_path)
    assert to_plain(loaded) == to_plain(found)
    assert loaded.warnings == found.warnings
    pd.testing.assert_frame_equal(loaded.table(), found.table())
    pd.testing.assert_frame_equal(loaded.controls_table(), found.controls_table())
    pd.testing.assert_frame_equal(loaded.repeatability.table(), found.repeatability.table())
    assert loaded.provenance == found.provenance
    for ours, theirs in zip(found.networks, loaded.networks, strict=True):
        assert ours.network.addresses == theirs.network.addresses
        assert (ours.n_fdr, ours.label) == (theirs.n_fdr, theirs.label)


def test_findings_that_cannot_be_read_say_so(found, space, tmp_path):
    assert Findings.load(str(tmp_path)) is None
    found.save(tmp_path, space)
    path = tmp_path / FOLDER / "findings.json"
    content = json.loads(path.read_text())
    overlap = content["overlap"]
    without = {name: values for name, values in overlap.items() if name != "dice"}
    damaged = ({"overlap": without}, {"overlap": {**overlap, "dice": None}}, {"n_units": "many"})
    for text in (*(json.dumps(content | change) for change in damaged), "[]", "{"):
        path.write_text(text)
        with pytest.raises(NetworkError, match=r"findings.json: is not what this version.*again"):
            Findings.load(tmp_path)


def test_files_of_an_earlier_call_go(found, space, tmp_path):
    found.save(tmp_path, space)
    stale = tmp_path / FOLDER / "networks" / "tea_network.tsv"
    stale.write_text("old")
    dataclasses.replace(found, networks=found.networks[:1]).save(tmp_path, space)
    assert not stale.exists()
    assert len(list((tmp_path / FOLDER / "networks").iterdir())) == 3
    remove_findings(tmp_path)
    assert not (tmp_path / FOLDER).exists()
    remove_findings(tmp_path)


def test_what_is_taken_off_levels_and_p_are_said(found, space, tmp_path):
    table = found.table()
    assert (
        "each participant's mean map over the tasks taken off first (20 with it left in)"
        in (table["text"].iloc[0])
    )
    sizes = table[table["finding"] == "networks"]["text"]
    assert sizes.str.contains(r"of all 700 pass false discovery rate 0\.05, unit by unit").all()
    found.save(tmp_path, space)
    readme = (tmp_path / FOLDER / "README.md").read_text()
    assert "taken off first" in readme
    assert "`p_value`: share of draws, the data counted in, that reach" in readme


def test_maps_that_the_dataset_does_not_give_are_refused(simulate, patterns, tmp_path):
    effects = effects_of(simulate(patterns))
    check_maps(effects, effects, tmp_path)
    values = effects.values.copy()
    values[2, 1, 5] += 0.1
    with pytest.raises(NetworkError, match=r"sub-03 are not those of the dataset.*0\.1 cal"):
        check_maps(dataclasses.replace(effects, values=values), effects, tmp_path)


def test_units_outside_the_mask_are_in_nothing(simulate, patterns, space):
    whole = simulate(patterns)
    mask = np.zeros(700, dtype=np.bool_)
    mask[:260] = True
    masked = dataclasses.replace(whole, values=whole.values[:, mask], mask=mask)
    found = measure(masked, space)
    assert (found.n_units, found.n_units_of_space) == (260, 700)
    for one in found.networks:
        units = one.network.units(space)
        assert units.max() < 260
        assert units.size == 13
        assert one.criterion == "top 5 % |effect| of the 260 units in the mask"
    group = effects_of(whole).values.mean(axis=0)
    expected = np.corrcoef(group[:, :260])[0, 1]
    assert found.overlap.correlation[0, 1] == pytest.approx(expected, abs=1e-5)
    assert "100 of 260 units" in found.controls[0].about
