"""Steering a tiny model: what is added, what is measured, what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from llm2bids.cli.main import main
from llm2bids.exceptions import InterventionError, SpaceError, UsageError
from llm2bids.intervention.answers import distinct_2, text_classifier
from llm2bids.intervention.results import load_results
from llm2bids.intervention.steer import steer
from llm2bids.intervention.steer_study import (
    at_norm,
    mean_difference,
    random_direction,
    shuffled_difference,
    versus_others,
)
from llm2bids.intervention.subject import Subject
from llm2bids.model.edit import load_edit
from llm2bids.model.tokenizer import encode

QUICK = {
    "n_prompts": 6, "n_defining": 5, "n_tokens": 4, "n_controls": 1, "layers": (1,),
    "strengths": (2.0, 6.0), "max_cost": 50.0, "min_distinct": 0.0, "seed": 3, "device": "cpu",
    "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def result(scanned, analysed, model):
    return steer(scanned.path, analysed, model=model, task_labels=("pathology",), **QUICK)


def greedy(model, ids, n_tokens, layer=None, vector=None):
    """Answer one prompt without cache or batch, a vector added after a layer by a hook of torch."""

    def add(module, args, output):
        return output + vector if torch.is_tensor(output) else (output[0] + vector, *output[1:])

    handle = None if layer is None else model.model.layers[layer].register_forward_hook(add)
    said = list(ids)
    try:
        for _ in range(n_tokens):
            with torch.no_grad():
                logits = model(torch.tensor([said]), use_cache=False).logits[0, -1]
            logits[2] = -torch.inf  # the end of the text
            logits[319:] = -torch.inf  # no tokens of the tokenizer
            said.append(int(logits.argmax()))
    finally:
        if handle is not None:
            handle.remove()
    return said[len(ids) :]


def test_texts_are_those_of_a_vector_added_by_hand(result, scanned, tiny_loaded, analysed):
    loaded = tiny_loaded("llama")
    edit = load_edit(analysed / "group/steer/pathology_edit.json")
    (part,) = edit.parts
    assert (part.site.layer, part.site.role, edit.kind) == (1, "residual", "add")
    texts = result.tables["texts"]
    vector = edit.strength * torch.from_numpy(part.values)
    changed = 0
    for method, layer in (("none", None), ("direction", 1)):
        rows = texts[texts["method"] == method]
        assert len(rows) == 3
        for row in rows.itertuples():
            text = scanned.prompts.set_index("prompt_id").loc[row.prompt_id, "text"]
            ids = encode(loaded, text)
            said = greedy(loaded.model, ids, 4, layer, vector)
            shown = loaded.tokenizer.decode(said)
            assert row.text == shown.replace("\n", " ⏎ ").replace("\t", " ").replace("\r", " ")
            with torch.no_grad():
                logits = loaded.model(torch.tensor([[*ids, *said]])).logits[0, len(ids) - 1 : -1]
            nll = torch.nn.functional.cross_entropy(logits, torch.tensor(said))
            assert row.nll == pytest.approx(float(nll), abs=1e-4)
            changed += method == "direction" and said != greedy(loaded.model, ids, 4)
    assert changed


def test_the_direction_is_the_difference_of_whole_texts(result, scanned, tiny_loaded, analysed):
    loaded = tiny_loaded("llama")
    (part,) = load_edit(analysed / "group/steer/pathology_edit.json").parts
    subject = Subject(dataset=scanned, effects=None, loaded=loaded, seed=3, source="")
    means = {}
    for bank in ("pathology", subject.baseline):
        texts = []
        for prompt in subject.shown_of(bank, 5):
            ids = encode(loaded, prompt.text)
            with torch.no_grad():
                states = loaded.model(
                    torch.tensor([[*ids, *greedy(loaded.model, ids, 4)]]),
                    output_hidden_states=True,
                ).hidden_states[2]
            texts.append(states[0, 1:].mean(dim=0).numpy())
        means[bank] = np.mean(texts, axis=0)
    expected = means["pathology"] - means[subject.baseline]
    np.testing.assert_allclose(part.values, expected, atol=1e-4)


def test_search_and_report_share_no_prompt_and_nothing_that_was_shown(result, scanned):
    table = result.tables["steer"]
    assert table["method"].tolist() == ["none", "direction", "random", "shuffled", "prompt"]
    search = result.tables["search"]
    assert search["strength"].tolist() == [2.0, 6.0] and search["chosen"].sum() == 1
    best = search.loc[search["p"].idxmax()]
    assert best["chosen"] and set(table["strength"]) == {best["strength"]}
    shown = set().union(*(scanned.transcript(run)["prompt_id"] for run in scanned.runs))
    reported = set(result.tables["texts"]["prompt_id"])
    assert len(reported) == 3 and not reported & shown
    assert table["distinct_2"].between(1 / 3, 1).all()
    low, high = result.metadata["ClassifierAccuracyInterval"]
    assert low <= result.metadata["ClassifierAccuracy"] <= high
    assert result.metadata["ClassifierTests"] == 3 * len(scanned.prompts["condition"].unique())


def test_no_more_variety_is_asked_than_intact_answers_have(scanned, analysed, model, result):
    floor = steer(
        scanned.path, analysed, model=model, task_labels=("pathology",),
        **(QUICK | {"min_distinct": 1.1}),
    ).tables["search"]  # fmt: skip
    same = result.tables["search"]
    pd.testing.assert_series_equal(floor["distinct_2"], same["distinct_2"])
    # no text has more than 1; intact answers have what the steered ones have, or less
    assert floor["allowed"].any() and same["allowed"].all()


def test_controls_have_the_norm_of_the_direction():
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(4, 3)).astype("f4") for name in ("tea", "coffee", "milk")}
    values["off"] = rng.normal(size=(5, 3)).astype("f4")
    mean = {name: of_bank.mean(axis=0) for name, of_bank in values.items()}
    np.testing.assert_allclose(
        mean_difference(values, "tea", "off"), mean["tea"] - mean["off"], atol=1e-6
    )
    others = (mean["coffee"] + mean["milk"]) / 2
    np.testing.assert_allclose(versus_others(values, "tea", "off"), mean["tea"] - others, atol=1e-6)
    assert np.linalg.norm(random_direction(3, 2.5, rng)) == pytest.approx(2.5)
    shuffled = shuffled_difference(values["tea"], values["off"], 2.5, rng)
    assert np.linalg.norm(shuffled) == pytest.approx(2.5)
    assert at_norm(np.zeros(3), 2.0).tolist() == [0, 0, 0]


def test_away_is_tried_on_the_own_prompts_against_other_topics(scanned, analysed, model):
    away = steer(
        scanned.path, analysed, model=model, task_labels=("archeology",), minus=True, **QUICK
    )
    assert away.metadata["Direction"] == "vs-others"
    assert "other topic" in away.tables["steer"]["method"].tolist()
    assert "prompt" not in away.tables["steer"]["method"].tolist()
    assert all(name.startswith("archeology") for name in away.tables["texts"]["prompt_id"])
    assert load_edit(analysed / "group/steer/archeologyAway_edit.json").strength < 0
    again = {read.stem: read for read in load_results(analysed, "steer")}["away"]
    pd.testing.assert_frame_equal(
        again.tables["search"], away.tables["search"], check_dtype=False, atol=1e-7
    )
    assert again.notes == away.notes


def test_the_map_is_brought_to_the_norm_of_the_means(scanned, analysed, model, result):
    effect = steer(
        scanned.path, analysed, model=model, task_labels=("pathology",), direction="effect", **QUICK
    )
    means, own = (r.edits["pathology"].parts[0].values for r in (result, effect))
    assert np.linalg.norm(own) == pytest.approx(np.linalg.norm(means), rel=1e-5)
    assert abs(np.dot(own, means)) < 0.999 * np.linalg.norm(own) * np.linalg.norm(means)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strengths": (1e41,)}, InterventionError, r"offtopic-\d+: the model gives no numbers "
         r"from token 1 .* strength 1e\+41 .*lower the strength"),
        ({"n_prompts": 4000}, InterventionError, r"of the 1754 prompts .* expected 4000 to test"),
        ({"layers": (9,)}, UsageError, r"--layers 9: .* after layers 0 to 2"),
        ({"task_labels": ("tea",)}, UsageError, r"--task tea: not in the analysis, which has"),
        ({"stat_img": "map.nii.gz"}, UsageError, r"expected --direction effect"),
        ({"n_prompts": 2}, UsageError, r"--n-prompts\) is 2; expected 4 or more"),
        ({"n_defining": 0}, UsageError, r"--n-defining\) is 0; expected 4 or more"),
        ({"n_controls": -1}, UsageError, r"--n-controls\) is -1; expected 0 or more"),
        ({"strengths": (2.0, np.nan)}, UsageError, r"--strengths\) is .*nan\); expected a list"),
        ({"strengths": ()}, UsageError, r"--strengths\) is \(\); expected one or more"),
        ({"max_cost": np.nan}, UsageError, r"--max-cost\) is nan; expected a finite number"),
        ({"ask": "Please."}, UsageError, r"--ask 'Please.': expected {topic}"),
        ({"direction": "up"}, UsageError, r"--direction\) is 'up'; expected 'means'"),
    ],
)  # fmt: skip
def test_what_cannot_be_steered_is_refused(scanned, analysed, model, changes, error, message):
    options = {**QUICK, "task_labels": ("pathology",), **changes}
    with pytest.raises(error, match=message):
        steer(scanned.path, analysed, model=model, **options)


def test_a_map_of_another_model_is_refused(scanned, analysed, model, written):
    image = next(written.glob("derivatives/llm2bids/sub-01/func/*_boldref.nii.gz"))
    with pytest.raises(SpaceError, match="shape"):
        steer(
            scanned.path, analysed, model=model, task_labels=("pathology",), direction="effect",
            stat_img=image, **QUICK,
        )  # fmt: skip


def test_another_model_than_the_datasets_is_refused(scanned, analysed, tiny_model_dir):
    with pytest.raises(InterventionError, match=r"was recorded from .* expected the same"):
        steer(scanned.path, analysed, model=str(tiny_model_dir("qwen3")), **QUICK)


def test_the_classifier_learns_from_few_texts():
    texts = ["tea in a cup", "green tea", "a pot of tea", "tea leaves", "black tea"]
    others = ["the law and the vote", "a vote", "the law", "parliament vote", "vote on laws"]
    labels = ["tea"] * 5 + ["law"] * 5
    classifier = text_classifier(texts + others, labels)
    unseen = ["tea", "a cup of tea", "the vote", "tea"]
    assert classifier.predict(unseen).tolist() == ["tea", "tea", "law", "tea"]
    with pytest.raises(InterventionError, match="2 classes with at least 1 texts"):
        text_classifier(texts[:1] + others, labels[4:])


def test_loops_have_few_distinct_pairs():
    assert distinct_2(np.array([[7] * 15, list(range(15))])).round(3).tolist() == [0.071, 1.0]


def test_the_command_says_what_it_costs(scanned, analysed, model, capsys):
    flags = ["--task", "pathology", "--n-prompts", "4", "--n-defining", "4", "--n-tokens", "3"]
    flags += ["--layers", "0", "--strengths", "3", "--n-controls", "1", "--device", "cpu", "-q"]
    assert main(["steer", str(scanned.path), str(analysed), "--model", model, *flags]) == 0
    output = capsys.readouterr().out
    assert "distinct_2" in output and "Scaling the units of a network induces no topic" in output


def test_edits_say_which_prompts_defined_them(result, scanned):
    edit = result.edits["pathology"]
    assert edit.prompts and not edit.prompts & set(result.tables["texts"]["prompt_id"])
    assert replace(edit, strength=1.0).fingerprint == scanned.space.fingerprint()
