"""The four findings on simulated experiments with known truth, and their files."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.inference.second_level import fit_second_level
from llm2bids.model.units import Site
from llm2bids.network.effects import task_effects
from llm2bids.network.findings import TABLE_COLUMNS, measure_findings
from llm2bids.network.findings_files import FOLDER, remove_findings, write_findings
from llm2bids.network.network import load_network
from llm2bids.network.prompt_means import PromptSamples
from llm2bids.network.provenance import require_disjoint
from llm2bids.network.task_networks import group_statistics, label_clusters, task_networks
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


def samples(means):
    return PromptSamples(means=means, n_tokens=3, first_tokens={1: task_effects(means)})


@pytest.fixture
def found(simulate, patterns, space):
    return measure_findings(samples(simulate(patterns)), space, **FAST)


def test_planted_networks_are_found(found, patterns):
    assert [one.against for one in found.networks] == ["off"] * 4 + ["others"] * 4
    for task, one in enumerate(found.networks[:4]):
        planted = set(np.flatnonzero(patterns[task]))
        units = set(one.network.units(found.space).tolist())
        assert len(units) == len(one.network) == 35
        assert units <= planted
        assert one.n_fdr > 25
        assert one.n_fdr_anywhere >= one.n_fdr
        signs = np.sign(patterns[task])[one.network.units(found.space)]
        np.testing.assert_array_equal(np.sign(one.network.table["effect"]), signs)


def test_the_planted_pair_overlaps_first_and_maps_come_again(found):
    first = found.overlap.pairs().iloc[0]
    assert {first["task_a"], first["task_b"]} == {"taskA", "taskB"}
    assert found.identification.accuracy == 1.0
    assert found.single_run.mean_r.min() > 0.3
    assert found.over_participants.mean_r.min() > 0.5
    assert found.over_prompts.mean_r.min() > 0.5
    shuffled = found.controls[1]
    assert shuffled.mean == pytest.approx(0.25, abs=0.1)


def test_nothing_is_found_in_noise(simulate, space):
    found = measure_findings(samples(simulate(np.zeros((4, 700), np.float32))), space, **FAST)
    low, high = found.identification.interval()
    assert low < 0.25 < high
    assert np.abs(found.over_participants.mean_r).max() < 0.2
    assert sum(one.n_fdr_anywhere for one in found.networks[:4]) < 10


def test_every_number_says_its_data(found):
    networks = found.networks[0].network.provenance
    assert networks.participants == {"01", "02", "03", "04", "05"}
    assert all("taskA" in name for name in networks.runs)
    assert found.networks[4].network.provenance == found.provenance
    for part in (found.overlap, found.single_run, found.over_prompts, found.identification):
        assert part.provenance == found.provenance
    with pytest.raises(NetworkError, match="share"):
        require_disjoint(networks, found.provenance, what="a test of the network")


@pytest.mark.parametrize("share", ["on", "off"])
def test_a_leak_is_refused_unless_asked_for(simulate, patterns, space, share):
    leaking = samples(simulate(patterns, share=share))
    with pytest.raises(NetworkError, match="share"):
        measure_findings(leaking, space, **FAST)
    found = measure_findings(leaking, space, allow_circular=True, **FAST)
    assert any(warning.startswith("CIRCULAR") for warning in found.warnings)


def test_a_shared_baseline_is_refused_unless_asked_for(simulate, patterns, space):
    shared = samples(simulate(patterns, shared_baseline=True))
    with pytest.raises(NetworkError, match="saw prompt off-any-01-0 more than once"):
        measure_findings(shared, space, **FAST)
    found = measure_findings(shared, space, allow_circular=True, **FAST)
    assert any("a shared baseline makes their maps alike" in text for text in found.warnings)
    assert any(text.startswith("CIRCULAR") for text in found.warnings)


def test_too_few_participants_or_tasks(simulate, patterns, space):
    with pytest.raises(NetworkError, match="found 2 participants and 4 tasks; expected 3 or more"):
        measure_findings(samples(simulate(patterns, n_participants=2)), space, **FAST)
    with pytest.raises(NetworkError, match="found 5 participants and 1 tasks"):
        measure_findings(samples(simulate(patterns[:1])), space, **FAST)


def test_maps_of_another_space(simulate, space):
    with pytest.raises(NetworkError, match="effects of 60 units, space Toy has 700"):
        measure_findings(samples(simulate(np.ones((2, 60), np.float32))), space, **FAST)


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


def test_group_statistics_are_nilearns(simulate, patterns, space):
    effects = task_effects(simulate(patterns)).effects[:, 0]
    maps = group_statistics(effects)
    images = [nib.Nifti1Image(space.to_grid(row), space.affine) for row in effects]
    mask = nib.Nifti1Image(space.grey.astype(np.uint8), space.affine)
    fit = fit_second_level(images, mask_img=mask)
    pairs = {"effect": fit.effect, "cohensd": fit.d, "t": fit.t, "pfdr": fit.p_fdr}
    for name, image in pairs.items():
        np.testing.assert_allclose(maps[name], space.to_units(image), rtol=1e-4, atol=1e-5)


def test_equal_effects_are_no_evidence():
    maps = group_statistics(np.array([[2.0, 1.0], [2.0, 3.0], [2.0, 2.0]]))
    assert maps["t"][0] == maps["cohensd"][0] == 0
    assert maps["pfdr"][0] == 1
    with pytest.raises(NetworkError, match="found 1 participant"):
        group_statistics(np.ones((1, 2)))


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
    with pytest.raises(NetworkError, match="found one task"):
        task_networks(task_effects(simulate(patterns[:1])), space, against="others")


def test_networks_by_effect_size_and_false_discovery_rate(simulate, patterns, space):
    effects = task_effects(simulate(patterns))
    for index, one in enumerate(task_networks(effects, space, min_cohens_d=1.5)):
        maps = group_statistics(effects.effects[:, index])
        expected = np.flatnonzero((np.abs(maps["cohensd"]) > 1.5) & (maps["pfdr"] < 0.05))
        assert expected.size > 0
        assert sorted(one.network.units(space)) == expected.tolist()
        assert one.network.criterion == "|cohensd| > 1.5 and false discovery rate 0.05"
        assert one.n_fdr == len(one.network)
        assert one.top_percent is None
    assert len(task_networks(effects, space, min_cohens_d=1e6)[0].network) == 0
    with pytest.raises(NetworkError, match="threshold"):
        task_networks(effects, space, min_cohens_d=-1.0)


def test_files(found, tmp_path):
    files = write_findings(found, tmp_path)
    assert all(path.is_file() for path in files)
    folder = tmp_path / FOLDER
    content = json.loads((folder / "findings.json").read_text())
    assert "NaN" not in (folder / "findings.json").read_text()
    assert content["tasks"] == list(found.tasks)
    assert content["space"]["n_units"] == 700
    assert content["identification"]["accuracy"] == 1.0
    assert content["identification"]["folds"][1] == {
        "tested": ["02"],
        "defining": ["01", "03", "04", "05"],
    }
    assert np.array(content["overlap"]["dice"]).shape == (4, 4)
    assert content["repeatability"]["n_splits"] == {"participants": 10, "prompts": 20}
    for entry in content["networks"]:
        network = load_network(folder / entry["table"])
        assert len(network) == entry["n_units"] == 35
        assert entry["n_clusters"] == network.table["cluster"].max()
        values = found.space.to_units(folder / entry["image"])
        np.testing.assert_allclose(values[network.units(found.space)], network.table["effect"],
                                   rtol=1e-5)  # fmt: skip
        assert np.count_nonzero(values) == 35
    curve = pd.read_csv(folder / "identification_curve.tsv", sep="\t")
    assert not curve.duplicated(["n_tokens", "n_prompts"]).any()
    for name in ("findings", "overlap", "repeatability", "confusion", "identification"):
        assert f"`{name}.tsv`" in (folder / "README.md").read_text()


def test_files_of_an_earlier_call_go(found, tmp_path):
    write_findings(found, tmp_path)
    stale = tmp_path / FOLDER / "networks" / "tea_network.tsv"
    stale.write_text("old")
    write_findings(dataclasses.replace(found, networks=found.networks[:1]), tmp_path)
    assert not stale.exists()
    assert len(list((tmp_path / FOLDER / "networks").iterdir())) == 3
    remove_findings(tmp_path)
    assert not (tmp_path / FOLDER).exists()
    remove_findings(tmp_path)
