"""Similarity of two sides: distances, correlations, chance and ceilings beside scipy and truth."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import kstest, spearmanr
from scipy.stats import t as student

import llm2bids
from llm2bids.cli.main import main
from llm2bids.comparison.items import Side, rdms_of
from llm2bids.comparison.rsa import compare_sides
from llm2bids.exceptions import DatasetError, ModelError, UsageError

SCAN = {
    "n_participants": 2, "task_labels": ["pathology", "archeology"], "prompts_per_block": 4,
    "tokens_per_prompt": 3, "device": "cpu", "progress": False,
}  # fmt: skip


def run(*args, **options):
    return llm2bids.compare(*args, **{"n_permutations": 19, **options})


@pytest.fixture(scope="module")
def models(tiny_model_dir, tmp_path_factory):
    """The same prompts through two models: of three layers, and of two."""
    folder = tmp_path_factory.mktemp("models")
    return [
        llm2bids.record(folder / name, model=tiny_model_dir(name), **SCAN)
        for name in ("llama", "gpt2")
    ]


def item_means(dataset, label):
    """Means over each prompt's volumes, by its text, in sd."""
    texts = dataset.prompts.set_index("prompt_id")["text"]
    shown = {}
    for run in dataset.select(participant_label=[label]):
        values = (dataset.values(run) - dataset.calibration.mean) / dataset.calibration.scale
        prompts = dataset.transcript(run).dropna(subset="volume")["prompt_id"]
        for row, prompt in zip(values, prompts, strict=True):
            shown.setdefault(texts[prompt], []).append(row)
    return {text: np.mean(rows, axis=0) for text, rows in sorted(shown.items())}


def expected_r(first, second, label, layer_a, layer_b):
    distances = []
    for dataset, layer in ((first, layer_a), (second, layer_b)):
        (name,) = (s.name for s in dataset.space.sites if (s.role, s.layer) == ("residual", layer))
        means = np.stack(list(item_means(dataset, label).values()))
        distances.append(pdist(means[:, dataset.space.site_slices[name]], "correlation"))
    return spearmanr(*distances).statistic


def test_r_is_scipys(models):
    result = run(*(dataset.path for dataset in models))
    n_layers = [len([s for s in d.space.sites if s.role == "residual"]) for d in models]
    assert result.matrix.shape == tuple(n_layers) and result.participants == ("01", "02")
    for row, column in itertools.product(*map(range, n_layers)):
        r = [expected_r(*models, label, row, column) for label in ("01", "02")]
        assert result.matrix[row, column] == pytest.approx(np.mean(r), abs=1e-3)
    r = [expected_r(*models, label, 1, 1) for label in ("01", "02")]
    line = result.table.iloc[1]
    half = student.ppf(0.975, 1) * np.std(r, ddof=1) / np.sqrt(2)
    assert (line["high"] - line["low"]) / 2 == pytest.approx(half, abs=5e-3)
    assert (line["layer_a"], line["layer_b"]) == ("1", "1")
    assert result.items["in_a"].all() and result.items["in_b"].all()
    assert set(result.items["condition"]) == {"off", "pathology", "archeology"}


def test_a_dataset_is_like_itself(models):
    path = models[0].path
    result = run(path, path, sites=["all"])
    np.testing.assert_allclose(result.table["r"], 1, atol=1e-5)
    assert (result.table[["p", "p_fwe", "p_within"]] == 1 / 20).all(axis=None)
    assert result.names == ("llama (A)", "llama (B)")


def side(name, patterns, *, conditions=None, items=None, layers=("0",)):
    """A side of participants' patterns (n_participants, n_items, n_units), all of one layer."""
    n_items = patterns.shape[1]
    items = items or [f"item {index}" for index in range(n_items)]
    return Side(
        name=name,
        layers=layers,
        has_depth=True,
        participants={
            f"{index:02d}": rdms_of([rows], layers, items, conditions or [""] * n_items)
            for index, rows in enumerate(patterns)
        },
    )


def p_values(make, n, column):
    rows = []
    for index in range(n):
        a, b = make(np.random.default_rng([7, index]))
        rows.append(compare_sides(a, b, n_permutations=99, seed=index).table[column].iloc[0])
    return np.array(rows)


def test_p_is_uniform_where_nothing_is_shared():
    def nothing(rng):
        # two listeners who share their own geometry, and nothing with the model
        common = rng.normal(size=(1, 14, 20))
        human = common + 0.5 * rng.normal(size=(2, 14, 20))
        return side("a", rng.normal(size=(1, 14, 17))), side("b", human)

    p = p_values(nothing, 80, "p")
    assert kstest(p, "uniform").pvalue > 0.05 and 0.4 < p.mean() < 0.6


def test_p_within_is_uniform_where_only_conditions_are_shared():
    kinds = ["tea", "milk", "cocoa"] * 6

    def conditions(rng):
        mean = dict(zip(("tea", "milk", "cocoa"), rng.normal(size=(3, 15)), strict=True))
        rows = np.stack([mean[kind] for kind in kinds])
        patterns = [rows + rng.normal(size=(1, 18, 15)) for _ in range(2)]
        return [side(name, x, conditions=kinds) for name, x in zip("ab", patterns, strict=True)]

    within = p_values(conditions, 60, "p_within")
    assert kstest(within, "uniform").pvalue > 0.05 and 0.4 < within.mean() < 0.6
    assert p_values(conditions, 10, "p").max() < 0.05


def test_what_is_shared_is_detected_and_corrected_over_layers():
    rng = np.random.default_rng(3)
    common = rng.normal(size=(1, 16, 24))
    a, b = (common + 0.5 * rng.normal(size=(1, 16, 24)) for _ in range(2))
    layers = ("0", "1")
    other = rng.normal(size=(2, 16, 24))
    sides = [
        Side(name=name, layers=layers, has_depth=True, participants={
            "01": rdms_of([x[0], noise], layers, [f"i{k}" for k in range(16)], [""] * 16)})
        for name, x, noise in zip("ab", (a, b), other, strict=True)
    ]  # fmt: skip
    table = compare_sides(*sides, n_permutations=199, seed=0).table
    assert table["p"][0] == table["p_fwe"][0] == 0.005 and table["p"][1] > 0.05
    assert (table["p_fwe"] >= table["p"]).all() and table["p_within"].isna().all()


def test_noise_ceilings_are_of_participants_with_the_same_items():
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(1, 13, 30)) + 0.7 * rng.normal(size=(4, 13, 30))
    model = side("model", rng.normal(size=(1, 13, 30)))
    line = compare_sides(model, side("b", patterns), n_permutations=9, seed=0).table.iloc[0]
    ranks = np.stack([pd.Series(pdist(x, "correlation")).rank() for x in patterns])
    high = np.mean([spearmanr(row, ranks.mean(axis=0)).statistic for row in ranks])
    low = np.mean(
        [
            spearmanr(row, np.delete(ranks, index, axis=0).mean(axis=0)).statistic
            for index, row in enumerate(ranks)
        ]
    )
    assert line["ceiling_high"] == pytest.approx(high, abs=1e-6)
    assert line["ceiling_low"] == pytest.approx(low, abs=1e-6) and low < high


def test_layers_of_other_numbers_meet_at_their_depth():
    rng = np.random.default_rng(0)
    a, b = (
        Side(name=name, layers=tuple(map(str, range(n))), has_depth=True, participants={
            "01": rdms_of(rng.normal(size=(n, 12, 9)), list("abcde")[:n],
                          [f"i{k}" for k in range(12)], [""] * 12)})
        for name, n in (("a", 5), ("b", 3))
    )  # fmt: skip
    table = compare_sides(a, b, n_permutations=1, seed=0).table
    assert table["layer_b"].tolist() == ["0", "0", "1", "2", "2"]


def test_items_that_are_not_shared_are_named():
    rng = np.random.default_rng(0)
    names = [f"item {index:02d}" for index in range(17)]
    a = side("one", rng.normal(size=(1, 15, 9)), items=names[:15])
    b = side("two", rng.normal(size=(1, 15, 9)), items=names[2:])
    result = compare_sides(a, b, n_permutations=1, seed=0)
    told = result.describe()
    assert "13 items that both have" in told
    assert "only in one (A), left out: item 00; item 01\n" in told
    assert "only in two (B), left out: item 15; item 16\n" in told
    alone = result.items[~(result.items["in_a"] & result.items["in_b"])]
    assert alone["item"].tolist() == ["item 00", "item 01", "item 15", "item 16"]


def test_few_items_are_refused(models, tmp_path):
    with pytest.raises(UsageError, match=r"2 conditions .*, 1 pairs; expected 12 or more"):
        run(models[0].path, models[1].path, items="conditions")
    rng = np.random.default_rng(0)
    six = [side(name, rng.normal(size=(1, 6, 9))) for name in "ab"]
    with pytest.raises(UsageError, match=r"6 conditions that .* has, 15 pairs; expected 12"):
        compare_sides(*six, n_permutations=1, seed=0, kind="conditions")


def test_rdms_of_rsatoolbox_are_a_side(models, tmp_path):
    """What people's own tools made of their scans: here, of the second model."""
    from rsatoolbox.rdm import RDMs

    shown = list(item_means(models[1], "01"))
    (site,) = (s for s in models[1].space.sites if (s.role, s.layer) == ("residual", 1))
    part = models[1].space.site_slices[site.name]
    rng = np.random.default_rng(0)
    means = np.stack([item_means(models[1], "01")[text][part] for text in shown])
    noise = 0.1 * rng.normal(size=(3, *means.shape))
    rows = [pdist(means + part, "correlation") for part in noise]
    order = rng.permutation(len(shown))  # as a file has them, in any order
    matrices = RDMs(np.stack(rows)).get_matrices()[:, order][:, :, order]
    saved = RDMs(
        matrices,
        rdm_descriptors={"participant": ["p1", "p2", "p3"], "layer": ["temporal"] * 3},
        pattern_descriptors={"item": [shown[index] for index in order]},
    )
    path = tmp_path / "people.hdf5"
    saved.save(str(path))
    result = run(models[1].path, path)
    assert result.participants == ("p1", "p2", "p3")
    assert set(result.table["layer_b"]) == {"temporal"}
    line = result.table[result.table["layer_a"] == "1"].iloc[0]
    own = pdist(means, "correlation")
    assert line["r"] == pytest.approx(
        np.mean([spearmanr(own, x).statistic for x in rows]), abs=2e-3
    )
    assert line["ceiling_low"] > 0.9 and line["p"] == 1 / 20
    assert result.items["in_b"].sum() == len(shown) and not result.items["in_b"].all()


def test_words_of_a_story_are_items(tiny_model_dir, tmp_path):
    text = "The senate of Rome voted on the new law after a long debate in the old forum Of stone"
    words = pd.DataFrame({"word": text.split()})
    words["onset"], words["duration"] = words.index * 0.5, 0.4
    words.to_csv(tmp_path / "story.tsv", sep="\t", index=False)
    asked = {"stimuli": tmp_path / "story.tsv", "device": "cpu", "progress": False}
    read = [
        llm2bids.read(tmp_path / name, model=tiny_model_dir(name), per_word=True, **asked)
        for name in ("llama", "gpt2")
    ]
    result = run(*(dataset.path for dataset in read), items="words")
    kept = sorted({word.casefold() for word in text.split()[1:]} | {"the"})
    assert sorted(result.items["item"]) == kept and result.matrix.shape[0] == 3
    with pytest.raises(UsageError, match="1 prompts that a participant of each has"):
        run(*(dataset.path for dataset in read))
    clocked = llm2bids.read(tmp_path / "tr", model=tiny_model_dir("llama"), t_r=1.0, **asked)
    with pytest.raises(DatasetError, match="several words in each; expected one volume a word"):
        run(clocked.path, read[1].path, items="words")


def test_sessions_are_compared_by_name(recorded, tmp_path):
    """The intact model and the edited one, of one dataset."""
    path = tmp_path / "sessions"
    with recorded.create(path) as writer:
        for participant, task in itertools.product((1, 2), recorded.tasks):
            for seed, session in enumerate(("intact", "lesion")):
                design = replace(recorded.make_design(participant, task), session=session)
                writer.write_run(recorded.make_recording(design, seed=seed), t_r=recorded.t_r)
    asked = {"sites": ["all"], "n_permutations": 19}
    same, other = (
        llm2bids.compare(path, path, sessions=("intact", label), **asked).table
        for label in ("intact", "lesion")
    )
    np.testing.assert_allclose(same["r"], 1, atol=1e-5)
    assert (other["r"] < 0.5).all()
    with pytest.raises(UsageError, match="has intact, lesion; expected one for each side"):
        llm2bids.compare(path, path, **asked)


def test_what_is_refused(models, tmp_path):
    a, b = (dataset.path for dataset in models)
    for options, error, message in (
        (
            {"items": "letters"},
            UsageError,
            "is 'letters'; expected 'prompts', 'words', 'conditions'",
        ),
        ({"items": "words"}, UsageError, "has volumes of prompts"),
        ({"sites": ["xyz"]}, ModelError, "'xyz'"),
        ({"task": "x"}, DatasetError, "no run of task x; there are archeology, pathology"),
        ({"n_permutations": 0}, UsageError, "expected 1 or more"),
        ({"sessions": ("intact", "lesion")}, UsageError, "has no sessions"),
    ):
        with pytest.raises(error, match=message):
            run(a, b, **options)
    (tmp_path / "x.hdf5").write_text("no")
    with pytest.raises(UsageError, match="not RDMs that rsatoolbox saved"):
        run(a, tmp_path / "x.hdf5")
    with pytest.raises(UsageError, match="no such file"):
        run(a, tmp_path / "y.hdf5")


def test_the_command(models, tmp_path, capsys):
    argv = ["compare", *(str(dataset.path) for dataset in models)]
    assert main([*argv, "--n-permutations", "9", "-q"]) == 0
    assert "llama and gpt2: 48 items that both have, 2 participants" in capsys.readouterr().out
    out = tmp_path / "out"
    assert main([*argv, str(out), "--n-permutations", "9", "--sites", "all", "-q"]) == 0
    table = pd.read_csv(out / "compare.tsv", sep="\t")
    matrix = pd.read_csv(out / "matrix.tsv", sep="\t", index_col=0)
    assert len(table) == len(matrix) and len(pd.read_csv(out / "items.tsv", sep="\t")) == 48
    assert (out / "compare.png").stat().st_size > 20_000
    assert main([*argv, "--sessions", "intact"]) == 2
    assert "expected two labels" in capsys.readouterr().err
