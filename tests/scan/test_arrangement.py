"""Datasets in functional and random arrangement, on a tiny model with random weights."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from llm2bids import open_dataset, record
from llm2bids.dataset.arrangement import learned_space, read_stability
from llm2bids.exceptions import DatasetError, UsageError
from llm2bids.recording.calibration import LocalizerScan
from llm2bids.space.arrange import cells_of

OPTIONS = {
    "paradigm": "off_on_off",
    "task_labels": ("pathology", "randomstrings"),
    "prompts_per_block": 2,
    "tokens_per_prompt": 3,
    "progress": False,
    "device": "cpu",
    "n_participants": 1,
}


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def scanned(model, tmp_path_factory):
    """One participant in each arrangement; not to be changed."""
    folder = tmp_path_factory.mktemp("arrangements")
    functional = {"arrangement": "functional", "localizer_prompts": 4}
    return {
        "index": record(folder / "index", model=model, **OPTIONS),
        "functional": record(folder / "functional", model=model, **functional, **OPTIONS),
        "random": record(folder / "random", model=model, arrangement="random", **OPTIONS),
    }


def test_the_same_values_are_recorded_in_every_arrangement(scanned):
    values = {}
    for name, dataset in scanned.items():
        assert dataset.space.arrangement == name
        values[name] = [dataset.values(run) for run in dataset.runs]
    for name in ("functional", "random"):
        for one, other in zip(values["index"], values[name], strict=True):
            assert np.array_equal(one, other)
    fingerprints = {dataset.fingerprint for dataset in scanned.values()}
    assert len(fingerprints) == 3


def test_the_localizer_is_kept_apart_and_named(scanned):
    dataset = scanned["functional"]
    layout = dataset.space.layout
    shown = set()
    for run in dataset.runs:
        shown |= set(dataset.transcript(run)["prompt_id"])
    assert layout.method == "components"
    conditions = dataset.prompts.set_index("prompt_id").loc[list(layout.prompt_ids), "condition"]
    counts = conditions.value_counts()
    assert counts["offtopic"] == 32
    assert counts.drop("offtopic").tolist() == [4] * 6
    assert not shown & set(layout.prompt_ids)
    assert layout.n_tokens == 3 * (32 + 24)


def test_the_table_beside_the_units_is_the_arrangement(scanned):
    dataset = scanned["functional"]
    folder = dataset.derivative / f"tpl-{dataset.space.label}"
    (file,) = folder.glob("*_arrangement.tsv.gz")
    table = pd.read_csv(file, sep="\t")
    units = dataset.space.unit_table()
    start = units.groupby("module")["unit"].transform("idxmin").to_numpy()
    assert np.array_equal(table["cell"] + start, cells_of(dataset.space))
    about = json.loads((folder / file.name.replace(".tsv.gz", ".json")).read_text())
    assert about["Layout"]["prompt_ids"] == list(dataset.space.layout.prompt_ids)
    assert not list((scanned["index"].derivative / folder.name).glob("*_arrangement*"))


def test_what_halves_of_the_localizer_agree_on_is_kept(scanned, tmp_path):
    dataset = scanned["functional"]
    found = read_stability(dataset.path, dataset.space)
    assert sorted(found.n_prompts) == [28, 28]
    assert set(found.correlation["all panels"]) == {"functional", "index", "random"}
    assert all(abs(value) <= 1 for row in found.correlation.values() for value in row.values())
    for name in ("index", "random"):
        assert read_stability(scanned[name].path, scanned[name].space) is None
    path = tmp_path / "dataset"
    shutil.copytree(dataset.path, path)
    (file,) = path.glob("derivatives/llm2bids/tpl-*/*_arrangement.json")
    about = json.loads(file.read_text())
    for spoiled in ([], {"NumberOfPrompts": [1]}, {"NumberOfPrompts": [1, 2], "Correlation": 1}):
        file.write_text(json.dumps({**about, "SplitHalf": spoiled}))
        with pytest.raises(DatasetError, match="SplitHalf"):
            read_stability(path, dataset.space)


def test_an_order_that_an_older_version_learned_is_not_recorded_on(scanned, model, tmp_path):
    path = tmp_path / "dataset"
    shutil.copytree(scanned["functional"].path, path)
    settings = path / "code/llm2bids_settings.json"
    settings.write_text(settings.read_text().replace('"components"', '"ward"'))
    opened = open_dataset(path)
    assert opened.fingerprint == scanned["functional"].fingerprint
    options = {**OPTIONS, "arrangement": "functional", "localizer_prompts": 4}
    with pytest.raises(DatasetError, match="was learned by ward, which is no longer offered"):
        record(path, model=model, **options)


def test_constant_units_are_named_in_the_log(scanned, caplog):
    space = scanned["index"].space
    means = np.random.default_rng(0).standard_normal((18, space.n_units)).astype(np.float32)
    still = np.arange(3, 15)
    means[:, still] = 2.5
    ids = tuple("abcdefghijklmnopqr")
    how = {"conditions": ("off", "a", "b") * 6, "prompt_ids": ids, "n_tokens": 18}
    localizer = LocalizerScan(means=means, **how)
    with caplog.at_level("INFO", logger="llm2bids"):
        made, stability = learned_space(space, localizer, baseline="off")
    assert made.layout.n_constant == 12
    assert stability is None  # halves of 9 prompts are too short
    assert "12 units did not vary in the localizer and come last in their panels" in caplog.text
    assert all(space.address_of(int(unit)) in caplog.text for unit in still[:10])
    assert space.address_of(int(still[10])) not in caplog.text


def test_recording_goes_on_in_the_same_arrangement_only(scanned, model, tmp_path):
    path = tmp_path / "dataset"
    shutil.copytree(scanned["functional"].path, path)
    more = {**OPTIONS, "n_participants": 2}
    dataset = record(path, model=model, arrangement="functional", localizer_prompts=4, **more)
    assert len(dataset.runs) == 4
    assert dataset.fingerprint == scanned["functional"].fingerprint
    with pytest.raises(DatasetError, match="arrangement"):
        record(path, model=model, **more)
    with pytest.raises(DatasetError, match="localizer_prompts"):
        record(path, model=model, arrangement="functional", localizer_prompts=5, **more)


def test_the_arrangement_of_another_dataset_is_taken(scanned, model, tmp_path):
    source = scanned["functional"]
    options = {**OPTIONS, "seed": 5, "task_labels": ("pathology",)}
    made = record(tmp_path / "one", model=model, arrangement=source.path, **options)
    assert np.array_equal(made.space.voxels, source.space.voxels)
    assert made.space.layout == source.space.layout
    stability = read_stability(source.path, source.space)
    assert stability is not None
    assert read_stability(made.path, made.space) == stability
    record(tmp_path / "one", model=model, arrangement=source.path, **options)  # goes on
    with pytest.raises(DatasetError, match="another model or other sites"):
        record(tmp_path / "two", model=model, sites=("mlp",), arrangement=source.path, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(cell=0), "no permutation|is not the arrangement"),
        (lambda t: t.assign(cell=-1), "whole number"),
        (lambda t: t.assign(cell="x"), "whole number"),
        (lambda t: t.iloc[1:], "rows|units"),
        (lambda t: t.drop(columns="cell"), "cell"),
    ],
)
def test_a_spoiled_table_is_refused(scanned, model, tmp_path, change, message):
    path = tmp_path / "dataset"
    shutil.copytree(scanned["functional"].path, path)
    (file,) = path.glob("derivatives/llm2bids/tpl-*/*_arrangement.tsv.gz")
    change(pd.read_csv(file, sep="\t")).to_csv(file, sep="\t", index=False)
    with pytest.raises(DatasetError, match=message):
        open_dataset(path)
    with pytest.raises(DatasetError, match=message):
        record(tmp_path / "new", model=model, arrangement=file, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arrangement": "sorted"}, "--arrangement sorted: found no arrangement"),
        ({"localizer_prompts": 3}, "has no localizer"),
        ({"arrangement": "functional", "localizer_prompts": 1}, "needs 48 tokens or more"),
        ({"arrangement": "functional", "localizer_prompts": -1}, "expected 0 or more"),
    ],
)
def test_what_cannot_be_arranged_is_refused(model, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        record(tmp_path / "new", model=model, **options, **OPTIONS)
