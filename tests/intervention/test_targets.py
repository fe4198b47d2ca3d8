"""Targets of a tiny model: what each choice of neurons is, gains, and changes when trained."""

import numpy as np
import pytest

from llm2bids.cli.main import main
from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.intervention.results import load_results
from llm2bids.intervention.targets import targets
from llm2bids.intervention.trial import _differences
from tests.tiny_models import TEXTS

QUICK = {
    "task": "pathology", "n_texts": 16, "n_other": 6, "n_draws": 30, "top_percent": 10.0,
    "seed": 2, "device": "cpu", "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def result(scanned, analysed, model):
    return targets(
        scanned.path, analysed, model=model, trial=True, n_steps=3, n_batch=2, n_seeds=2,
        learning_rates=(0.003, 0.03), **QUICK,
    )  # fmt: skip


def test_the_network_is_the_neurons_with_the_largest_effects(result, activations):
    neurons = result.tables["neurons"]
    assert len(neurons) == 3 * 40 and neurons["network"].sum() == 12
    _, own = activations("pathology")
    np.testing.assert_allclose(neurons["effect"], own, rtol=1e-5)
    # neurons that are less active in the topic are active elsewhere: none of them
    least = np.sort(own)[-12]
    assert least > 0
    np.testing.assert_array_equal(neurons["network"] == 1, own >= least)


def test_choices_are_sums_over_their_neurons(result):
    neurons = result.tables["neurons"]
    choices = result.tables["choices"].set_index("choice")
    chosen = neurons["network"] == 1
    network = choices.loc["network"]
    assert network["own_gain"] == pytest.approx(neurons.loc[chosen, "own_gain"].sum())
    assert network["share"] == pytest.approx(
        neurons.loc[chosen, "own_gain"].sum() / neurons["own_gain"].sum()
    )
    off = neurons.loc[chosen, "off_gain"].sum()
    assert network["spillover"] == pytest.approx(off / network["own_gain"])
    top = neurons["fisher"].nlargest(12).index
    assert choices.loc["fisher", "own_gain"] == pytest.approx(neurons.loc[top, "own_gain"].sum())
    assert choices.loc["all", "share"] == pytest.approx(1)
    assert choices.loc["random low", "share"] <= choices.loc["random high", "share"]
    assert 1 / 31 <= network["p_share"] <= 1


def test_modules_have_their_share_of_the_network(result):
    modules = result.tables["modules"]
    assert len(modules) == 3 * 7 and modules["share_of_network"].notna().all()
    assert 0 < modules["share_of_network"].sum() < 1  # norms, activations, residual: not weights
    assert -1 <= result.metadata["ModuleShareRankCorrelation"] <= 1


def test_a_trial_trains_as_many_parameters_by_every_method(result):
    trial = result.tables["trial"]
    assert set(trial["method"]) == {"network", "random", "fisher", "lora", "all"}
    sizes = trial.groupby("method")["n_parameters"].first()
    assert sizes["network"] == sizes["random"] == sizes["fisher"] == 12 * 3 * 24
    assert sizes["lora"] == pytest.approx(sizes["network"], rel=0.35)  # a whole rank
    assert sizes["all"] == 10 * sizes["network"]
    assert (trial["low"] <= trial["change"]).all() and (trial["change"] <= trial["high"]).all()
    own = trial[(trial["text"] == "own") & (trial["method"] == "all")]
    assert own["change"].item() < 0
    rates = result.tables["rates"]
    for method, rows in rates.groupby("method"):
        chosen = rows[rows["chosen"].astype(bool)]
        assert chosen["validation"].item() == rows["validation"].min(), method
    differences = result.tables["differences"]
    assert set(differences["measure"]) == {"own", "spillover", "own - off"}
    assert (trial["size"] >= trial["change"].abs() - 1e-12).all()
    text = result.describe()
    assert "it is not where training helps most" in text and "network_minus" in text


def test_spillover_is_how_much_a_training_changes_a_text():
    own = np.array([[-1.0, -3.0, -2.0], [-1.0, -1.0, -2.0]])
    runs = {
        ("network", "own"): own, ("random", "own"): own + 1,
        # the first changes every text a little, the second some up and some down
        ("network", "off"): np.array([[-0.1, -0.1], [-0.1, -0.1]]),
        ("random", "off"): np.array([[-0.5, 0.5], [0.3, -0.3]]),
    }  # fmt: skip
    table = _differences(runs, ("network", "random")).set_index("measure")
    assert table.loc["own", "difference"] == pytest.approx(-1)
    assert table.loc["spillover", ["difference", "low", "high"]].tolist() == pytest.approx(
        [-0.3] * 3
    )
    assert table.loc["own - off", "difference"] == pytest.approx(-1 - (-0.1 - 0.0))


def test_files_give_the_tables_again(result, analysed):
    (again,) = [r for r in load_results(analysed, "targets") if r.stem == "pathology"]
    assert list(again.tables) == list(result.tables)
    np.testing.assert_allclose(
        again.tables["choices"]["own_gain"], result.tables["choices"]["own_gain"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_texts": 6}, UsageError, r"--n-texts\) is 6; expected 8 or more"),
        ({"n_texts": 500}, InterventionError, r"of the 174 prompts .* expected 500 to test"),
        ({"task": "tea"}, UsageError, r"--task tea: not in the analysis"),
        ({"top_percent": 0.0}, UsageError, r"--top\) is 0\.0; expected above 0 and below 100"),
        ({"sign": "up"}, UsageError, r"--sign\) is 'up'; expected 'both', 'positive'"),
        (
            {"top_percent": 99.0},
            InterventionError,
            r"of 120 MLP neurons have effects of sign positi",
        ),
        ({"n_draws": 0}, UsageError, r"--draws\) is 0; expected 1 or more"),
        ({"n_other": 0}, UsageError, r"--n-other\) is 0; expected 2 or more"),
        ({"learning_rates": (np.nan,)}, UsageError, r"--learning-rates\) is .*; expected a list"),
    ],
)
def test_what_cannot_be_chosen_is_refused(scanned, analysed, model, changes, error, message):
    with pytest.raises(error, match=message):
        targets(scanned.path, analysed, model=model, **(QUICK | changes))


def test_a_text_set_of_ones_own_is_split(scanned, analysed, model, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join([*TEXTS, *(f"{text} So it was." for text in TEXTS[:3])]) + "\n")
    own = targets(scanned.path, analysed, model=model, texts=file, **QUICK)
    assert own.metadata["NumberOfTexts"] == {"training": 5, "own": 5, "off": 6, "others": 6}
    file.write_text("\n".join(TEXTS[:5]))
    with pytest.raises(InterventionError, match=r"texts.txt: 5 texts; expected 8 or more"):
        targets(scanned.path, analysed, model=model, texts=file, **QUICK)


def test_the_command_says_what_a_network_is_for(scanned, analysed, model, capsys):
    flags = ["--task", "archeology", "--n-texts", "8", "--n-other", "2", "--draws", "3"]
    flags += ["--top", "5", "--model", model, "--device", "cpu", "-q"]
    assert main(["targets", str(scanned.path), str(analysed), *flags]) == 0
    assert "does not tell which modules to train" in capsys.readouterr().out
