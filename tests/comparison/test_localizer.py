"""Selectivity of units: t over trials, consistency, and the network of the top units."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.stats import ttest_ind

from llm2bids import load_network, localize, make_edit, write_report
from llm2bids.cli.main import main
from llm2bids.comparison.localizer import top_dice, trial_means, welch
from llm2bids.exceptions import DatasetError, UsageError
from llm2bids.scan.read import read


@pytest.fixture(scope="module")
def sums(tiny_model_dir, tmp_path_factory):
    """The multiple-demand localizer, read by a tiny model."""
    path = tmp_path_factory.mktemp("md") / "bids"
    return read(path, stimuli="md", model=tiny_model_dir("llama"), device="cpu", progress=False)


def test_a_localizer_is_read_word_by_word_and_trial_by_trial(sums):
    assert [run.run for run in sums.runs] == [1, 2]
    about = sums.sidecar(sums.runs[0])
    assert (about["Clock"], about["Context"], sums.t_r(sums.runs[0])) == (
        "one volume a word", "sentence", 0.45,
    )  # fmt: skip
    assert about["NumberOfPrompts"] == 96 and about["NumberOfVolumes"] == 96 * 5


def test_the_response_of_a_trial_is_the_mean_of_its_words(sums):
    run = sums.runs[1]
    table, means = trial_means(sums, run, skip=1)
    values = (sums.values(run) - sums.calibration.mean) / sums.calibration.scale
    expected = values.reshape(96, 5, -1)[:, 1:].mean(axis=1)
    np.testing.assert_allclose(means, expected, atol=1e-4)
    assert table["trial_type"].value_counts().to_dict() == {"E": 48, "H": 48}
    with pytest.raises(UsageError, match=r"--skip-words 5: trial .* has no more words"):
        trial_means(sums, run, skip=5)


def test_t_is_welchs():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(23, 7)).astype(np.float32)
    values[:, 3] = 2.5
    first = np.arange(23) < 9
    t, p = welch(values, first, ~first)
    varies = np.arange(7) != 3
    expected = ttest_ind(values[first][:, varies], values[~first][:, varies], equal_var=False)
    np.testing.assert_allclose(t[varies], expected.statistic, rtol=1e-4)
    np.testing.assert_allclose(p[varies], expected.pvalue, rtol=1e-4)
    assert np.isnan(t[3]) and np.isnan(p[3])


def test_dice_of_top_units():
    first = np.arange(200.0)
    assert top_dice(np.stack([first, first]), 5) == 1.0
    assert top_dice(np.stack([first, -first]), 5) == 0.0
    shifted = np.roll(first, -5)  # the five largest are others
    assert top_dice(np.stack([first, shifted]), 5) == 0.5


def test_what_is_written(sums, tmp_path):
    result = localize(sums.path, tmp_path, top_percent=5)
    assert result.contrast == "H-E" and result.n_trials == {"H": 96, "E": 96}
    assert result.tokens_per_trial["H"] == pytest.approx(result.tokens_per_trial["E"], rel=0.01)
    assert result.split_half_r > 0.8  # other numbers, other embeddings
    assert 0.3 < result.dice["5"] <= 1 and set(result.fold_dice) == {"0.5", "1", "5"}
    means = [trial_means(sums, run, skip=1) for run in sums.runs]
    kinds = np.concatenate([table["trial_type"] for table, _ in means])
    values = np.concatenate([rows for _, rows in means])
    varies = np.minimum(*(values[kinds == kind].std(axis=0) for kind in "HE")) > 0.01
    assert varies.mean() > 0.8
    hard, easy = (values[kinds == kind][:, varies] for kind in "HE")
    t = sums.space.to_units(nib.load(result.stat_img))
    expected = ttest_ind(hard, easy, equal_var=False).statistic
    np.testing.assert_allclose(t[varies], expected, rtol=1e-3, atol=1e-3)
    network = load_network(result.network)
    assert len(network) == np.ceil(0.05 * sums.space.n_units)
    chosen = network.units(sums.space)
    assert t[chosen].min() >= np.sort(t)[-len(network)]
    written = json.loads((tmp_path / "md_localizer.json").read_text())
    assert written["split_half_r"] == result.split_half_r
    assert "share" in (tmp_path / "md_layers.tsv").read_text().splitlines()[0].split("\t")
    again = localize(sums.path, tmp_path / "b", contrast="E-H", task="md")
    other = sums.space.to_units(nib.load(again.stat_img))
    np.testing.assert_allclose(other, -t, atol=1e-6)


def test_the_report_shows_what_was_found(sums, tmp_path):
    result = localize(sums.path, tmp_path / "md")
    page = write_report(tmp_path / "md", progress=False).read_text()  # it names its dataset
    assert "96 H and 96 E trials" in page and "Selectivity" in page
    assert f"{result.split_half_r:.3f}" in page and f"{result.percent_above:.1f}" in page
    for name in ("dice", "fold_dice"):
        for value in getattr(result, name).values():
            assert f">{value:.2f}</td>" in page
    assert "sub-01_task-md_run-2" in page and page.count("<svg") >= 2
    # a dataset without one says how it is made
    bare = write_report(sums.path, output=tmp_path / "bare.html", progress=False).read_text()
    assert "llm2bids localize bids OUT --task md" in bare and "Selectivity" not in bare


def test_the_report_of_another_model_does_not_show_it(sums, written, tmp_path):
    localize(sums.path, tmp_path / "md")
    page = write_report(tmp_path, bids_dir=written, progress=False).read_text()
    assert "Localizer md" not in page


def test_a_lesion_takes_the_units(sums, tmp_path):
    result = localize(sums.path, tmp_path, top_percent=5)
    edit = make_edit(sums, network=result.network)
    chosen = load_network(result.network).units(sums.space)
    assert sum(len(part.units) for part in edit.parts) == len(chosen)


def test_the_command(sums, tmp_path, capsys):
    assert main(["localize", str(sums.path), str(tmp_path), "-q"]) == 0
    assert "split half: r" in capsys.readouterr().out
    assert main(["localize", str(sums.path), str(tmp_path), "--contrast", "H-X", "-q"]) == 2
    assert "expected two of E, H" in capsys.readouterr().err


def test_what_is_refused(sums, written, tmp_path):
    with pytest.raises(DatasetError, match="expected a localizer that was read"):
        localize(written, tmp_path)
    with pytest.raises(DatasetError, match="no run of task x"):
        localize(sums.path, tmp_path, task="x")
