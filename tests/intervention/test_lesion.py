"""Lesions of a tiny model, and what is made of what they measure."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from llm2bids.cli.main import main
from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.inference.effects import read_effects
from llm2bids.inference.inputs import open_inputs
from llm2bids.intervention.lesion import LesionOptions, lesion
from llm2bids.intervention.lesion_study import edited_units, matched_units, related_topics
from llm2bids.intervention.lesion_tables import (
    Measured,
    boot_means,
    interval,
    lesion_result,
    relation,
)
from llm2bids.intervention.results import load_results
from llm2bids.model.edit import load_edit

QUICK = {"n_prompts": 5, "n_answer_tokens": 3, "n_draws": 3, "n_shuffled": 2, "progress": False}


@pytest.fixture(scope="module")
def result(scanned, analysed, model):
    return lesion(
        scanned.path, analysed, model=model, device="cpu", seed=4,
        method="zero", doses=(5.0, 20.0), **QUICK,
    )  # fmt: skip


def test_a_lesion_by_zero_is_a_model_without_the_columns(result, scanned, analysed, tiny_loaded):
    loaded = tiny_loaded("llama")
    edit = load_edit(analysed / "group/lesion/lesion_pathology_20percent_edit.json")
    assert edit.n_units == 24 and edit.method == "zero"
    rows = result.tables["prompts"][
        (result.tables["prompts"]["network"] == "pathology")
        & (result.tables["prompts"]["dose"] == 20)
    ]
    rows = rows[rows["text"] == "archeology"]
    texts = scanned.prompts.set_index("prompt_id").loc[rows["prompt_id"], "text"]
    tokens = [loaded.tokenizer(text)["input_ids"] for text in texts]
    before = [_mean_nll(loaded.model, ids) for ids in tokens]
    np.testing.assert_allclose(rows["intact_given"], before, atol=1e-5)
    saved = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    for part in edit.parts:
        loaded.model.model.layers[part.site.layer].mlp.down_proj.weight[:, part.units] = 0
    after = [_mean_nll(loaded.model, ids) for ids in tokens]
    loaded.model.load_state_dict(saved)
    np.testing.assert_allclose(rows["change_given"], np.subtract(after, before), atol=1e-5)


def _mean_nll(model, ids):
    given = torch.tensor([ids])
    with torch.no_grad():
        logits = model(given).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, given[0, 1:]))


def test_a_network_is_the_largest_effects_of_the_activations(
    result, scanned, analysed, activations
):
    inside, effect = activations("archeology")
    edit = load_edit(analysed / "group/lesion/lesion_archeology_5percent_edit.json")
    expected = inside[np.argsort(-np.abs(effect))[:6]]
    assert set(edited_units(edit, scanned.space)) == set(expected)
    assert edit.prompts == read_effects(open_inputs(scanned.path), analysed).provenance.prompts


def test_every_table_says_what_was_measured(result, scanned, analysed):
    texts = {"pathology", "politicalscience", "archeology", "off"}
    assert (
        len(result.tables["matrix"]) == 3 * 2 * len(texts) * 2
        and set(result.tables["matrix"]["text"]) == texts
    )
    cell = (
        result.tables["matrix"]
        .query("network == 'pathology' and dose == 5 and text == 'off' and measure == 'answers'")
        .iloc[0]
    )
    prompts = result.tables["prompts"].query(
        "network == 'pathology' and dose == 5 and text == 'off'"
    )
    assert cell["change"] == pytest.approx(prompts["change_answers"].mean())
    assert cell["low"] <= cell["change"] <= cell["high"] and cell["n_prompts"] == 5
    seen = {prompt for run in scanned.runs for prompt in scanned.transcript(run)["prompt_id"]}
    assert not seen & set(result.tables["prompts"]["prompt_id"])
    counts = result.tables["draws"].groupby(["kind", "dose"]).size()
    # each is measured on given text and on answers; shuffled tasks at the middle dose alone
    assert counts.to_dict() == {
        ("matched", 5.0): 18, ("matched", 20.0): 18, ("shared component", 20.0): 12,
    }  # fmt: skip
    drawn = result.tables["draws"].query(
        "kind == 'shared component' and network == 'archeology' and measure == 'given'"
    )["own"]
    row = result.tables["selectivity"].query(
        "network == 'archeology' and dose == 20 and measure == 'given'"
    )
    assert row[["shared_low", "shared_component", "shared_high"]].to_numpy() == pytest.approx(
        np.array([[drawn.min(), drawn.mean(), drawn.max()]])
    )
    assert (
        set(result.tables["untrained"]["dose"]) == {20.0}
        and len(result.tables["untrained"]) == 3 * 4 * 2
    )
    (kept,) = load_results(analysed, "lesion")
    assert list(kept.tables) == list(result.tables)
    for name, table in result.tables.items():
        pd.testing.assert_frame_equal(kept.tables[name], table, check_dtype=False, rtol=1e-8)
    assert "own_low" in result.describe() and "n_units" not in result.describe()


def test_the_same_seed_gives_the_same_figures(result, scanned, analysed, model):
    again = lesion(
        scanned.path, analysed, model=model, device="cpu", seed=4,
        method="zero", doses=(5.0, 20.0), **QUICK,
    )  # fmt: skip
    assert again.tables["matrix"].equals(result.tables["matrix"]) and again.tables["draws"].equals(
        result.tables["draws"]
    )


def test_an_edit_file_on_the_command_line(scanned, analysed, model, tmp_path, capsys):
    import llm2bids

    values = np.random.default_rng(0).normal(size=scanned.space.n_units)
    edit = llm2bids.make_edit(scanned, stat_img=values, sites=["residual"], label="residual")
    given = edit.save(tmp_path / "edit.json")
    command = ["lesion", str(scanned.path), str(analysed), "--model", model]
    command += ["--prompts", "4", "--draws", "2", "--device", "cpu", "-q", "--edit", str(given)]
    assert main([*command, "--task", "archeology"]) == 0
    said = capsys.readouterr().out
    assert "lesion of residual in tiny-llama" in said and "It does not show" in said
    content = json.loads((analysed / "group/lesion/lesion.json").read_text())
    assert content["Roles"] == ["residual"] and content["NumberOfShuffled"] == 0
    assert main(command) == 2
    assert "expected one: the topic that" in capsys.readouterr().err
    other = edit.metadata() | {"WeightsSHA256": "0" * 64}
    given.write_text(json.dumps(other))
    assert main([*command, "--task", "archeology"]) == 1
    assert "edit residual is for" in capsys.readouterr().err


def test_too_few_prompts_and_unknown_tasks(scanned, analysed, model):
    more = QUICK | {"n_prompts": 400}
    with pytest.raises(InterventionError, match=r"\d+ of the \d+ prompts .* expected 400"):
        lesion(scanned.path, analysed, model=model, device="cpu", **more)
    with pytest.raises(InterventionError, match=r"recorded from tiny-llama, and .* --model NAME"):
        lesion(scanned.path, analysed, **QUICK)
    with pytest.raises(UsageError, match="task tea: not in the analysis, which has"):
        lesion(scanned.path, analysed, model=model, device="cpu", task_labels=["tea"], **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_prompts": 3}, r"--n-prompts\) is 3; expected 4 or more"),
        ({"method": "cut"}, "'cut'; expected 'mean'"),
        ({"edit_files": ["x.json"]}, "0 tasks"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        LesionOptions(**options)


def test_matched_units_are_as_many_and_as_active(synthetic):
    space, rng = synthetic.make_space(), np.random.default_rng(3)
    magnitude = np.exp(rng.normal(size=space.n_units))
    units = np.array([0, 3, 12, 13, 40, 41, 42])
    drawn = matched_units(units, magnitude, space, np.random.default_rng(1))
    assert len(set(drawn)) == 7 and not set(drawn) & set(units)
    for where in space.site_slices.values():
        in_site = [np.sum((u >= where.start) & (u < where.stop)) for u in (units, drawn)]
        assert in_site[0] == in_site[1]
    other = matched_units(units, magnitude, space, np.random.default_rng(2))
    assert set(other) != set(drawn)
    with pytest.raises(InterventionError, match=r"7 of its 11 units .* 4 are left"):
        matched_units(np.arange(7), magnitude, space, rng)


def test_matched_units_have_like_activation():
    from llm2bids.model.units import Site
    from llm2bids.space.arrange import build_space

    site = Site(name="m", layer=None, role="m", width=400)
    space = build_space((site,), label="S", model_name="m", weights_sha256="0" * 64)
    magnitude = np.exp(np.linspace(-5, 5, 400))
    units = np.arange(60, 400, 20)
    drawn = matched_units(units, magnitude, space, np.random.default_rng(0))
    nearest = np.abs(drawn[:, None] - units).min(axis=1)
    assert nearest.max() <= 12  # within the 20 nearest of 400
    assert magnitude[drawn].mean() / magnitude[units].mean() == pytest.approx(1, abs=0.15)


def test_topics_that_share_a_third_are_related():
    networks = {
        "a": np.arange(6),
        "b": np.arange(4, 10),
        "c": np.arange(5, 11),
        "d": np.array([99]),
    }
    related = related_topics(networks)
    assert related == {"a": ("b",), "b": ("a", "c"), "c": ("b",), "d": ()}
    assert [relation(text, "a", related) for text in ("a", "b", "c", "off")] == [
        *("own", "related", "unrelated", "off")
    ]


def _nll(own, related, other, off, noise=0.0):
    """Four texts of 6 prompts whose given and answers' NLL are these, around 2 nats."""
    spread = noise * np.array([-1, 1, -0.5, 0.5, -0.2, 0.2])
    rows = {"a": own, "b": related, "c": other, "off": off}
    return {text: np.stack([2 + change + spread] * 2, axis=1) for text, change in rows.items()}


def _summary(lesions, draws=()):
    return lesion_result(
        [Measured(nll=_nll(0, 0, 0, 0), kind="intact"), *lesions, *draws],
        related={"a": ("b",), "b": ("a",), "c": ()},
        prompts={text: [f"{text}{n}" for n in range(6)] for text in ("a", "b", "c", "off")},
        seed=0,
        metadata={
            "NumberOfDraws": len(draws), "NumberOfPrompts": 6, "Model": "m", "Method": "mean",
            "Roles": ["act_fn"],
        },
        edits={},
    )  # fmt: skip


def test_selectivity_is_what_the_own_topic_loses_more():
    draws = [
        Measured("a", 1.0, "a", _nll(own, 0, 0, 0.1), kind="matched", draw=number)
        for number, own in enumerate((0.05, 0.1, 0.2))
    ]
    draws += [
        Measured("c", 1.0, "c", _nll(0, 0, 0.7, 0.1), kind="matched", draw=n) for n in range(3)
    ]
    lesions = [
        Measured("a", 1.0, "a", _nll(0.4, 0.3, 0.04, 0.02)),
        Measured("c", 1.0, "c", _nll(0.1, 0.1, 0.5, 0.0)),
    ]
    table = (
        _summary(lesions, draws)
        .tables["selectivity"]
        .query("measure == 'given'")
        .set_index("network")
    )
    row = table.loc["a"]
    assert row["own"] == pytest.approx(0.4) and row["related"] == pytest.approx(0.3)
    assert row["own_minus_unrelated"] == pytest.approx(0.36)
    assert row["own_minus_off_low"] == pytest.approx(0.38) and row["ratio"] == pytest.approx(10)
    assert (row["n_draws"], row["n_reached"], row["p"]) == (3, 0, 0.25)
    # the largest draw of all networks, 0.6, exceeds 0.38 in each of the three
    assert row["p_corrected"] == 1.0 and row["selective"]
    assert table.loc["c", "p"] == 1.0
    assert table.loc["c", "reason"] == "3 of 3 random draws do as much"


@pytest.mark.parametrize(
    ("nll", "reason"),
    [
        (_nll(0.5, 0, 0.2, 0), "unrelated text loses 0.20, 40 % of the own topic"),
        (_nll(0.5, 0, 0, 0.3), "off text loses 0.30, 60 % of the own topic"),
        (_nll(0.1, 0, 0.1, 0), "the own topic does not lose more than unrelated text"),
        (_nll(0.1, 0, 0.0, 0, noise=1.0), "the own topic does not lose more than unrelated text"),
    ],
)
def test_what_is_not_selective_is_flagged_by_what_was_measured(nll, reason):
    row = _summary([Measured("a", 1.0, "a", nll)]).tables["selectivity"].iloc[0]
    assert not row["selective"] and reason in row["reason"]
    assert np.isnan(row["p"])


def test_double_dissociation_of_unrelated_topics():
    lesions = [
        Measured("a", 1.0, "a", _nll(0.4, 0.3, 0.1, 0)),
        Measured("b", 1.0, "b", _nll(0.3, 0.4, 0.1, 0)),
        Measured("c", 1.0, "c", _nll(0.1, 0, 0.5, 0)),
    ]
    table = _summary(lesions).tables["dissociation"].query("measure == 'answers'")
    assert table[["first", "second"]].to_numpy().tolist() == [["a", "c"], ["b", "c"]]
    row = table.iloc[0]
    assert row["first_text"] == pytest.approx(0.3) and row["second_text"] == pytest.approx(0.4)
    assert row["both"]


def test_bootstrap_draws_the_same_prompts_of_a_text():
    values = np.random.default_rng(0).normal(size=12)
    boot = boot_means("a", values, 3)
    np.testing.assert_allclose(boot_means("a", values + 1, 3), boot + 1)
    np.testing.assert_allclose(boot_means("a", np.stack([values] * 2, axis=1), 3)[:, 1], boot)
    assert not np.allclose(boot_means("b", values, 3), boot)
    low, high = interval(boot)
    half = 1.96 * values.std() / np.sqrt(12)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
