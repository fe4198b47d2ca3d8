"""A story that was read, in other projects' tools: the validator, pybids, nilearn."""

import warnings

import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import first_level_from_bids
from nilearn.maskers import NiftiMasker

from llm2bids.dataset.validate import validate
from llm2bids.scan.read import read

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore"),  # pybids' own, under current pandas
]

TEXT = (
    "The senate of the old republic voted on the new law after a long debate in the forum . A "
    "scan of the chest shows a small shadow in the upper lobe of the left lung . On Sunday we "
    "bake bread , walk the dog in the park and call my grandmother ."
)


@pytest.fixture(scope="module", params=["tr", "per_word"])
def dataset(request, tiny_model_dir, tmp_path_factory):
    """Two stories with silence, on a clock of 1.5 s with a response, and a volume a word."""
    folder = tmp_path_factory.mktemp(f"stories-{request.param}")
    (folder / "words").mkdir()
    for name, pause in (("a", 6.0), ("b", 2.5)):
        table = pd.DataFrame({"word": TEXT.split()})
        table["onset"] = (np.arange(len(table)) * 0.4 + pause * (table.index > 20)).round(3)
        table["duration"] = 0.35
        table.to_csv(folder / "words" / f"{name}.tsv", sep="\t", index=False)
    clock = {"t_r": 1.5, "hrf_model": "glover"} if request.param == "tr" else {"per_word": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return read(
            folder / "bids", stimuli=folder / "words", model=tiny_model_dir("llama"),
            device="cpu", progress=False, **clock,
        )  # fmt: skip


def test_the_validator_finds_nothing(dataset):
    result = validate(dataset.path)
    assert (result.n_errors, result.n_warnings) == (0, 0), result.describe()


def test_pybids_gives_words_and_their_columns(dataset):
    from bids import BIDSLayout

    layout = BIDSLayout(dataset.path, derivatives=True)
    assert layout.get_tasks() == ["a", "b"]
    (run,) = layout.get_collections(level="run", task="a", types="events")
    for column in ("word", "surprisal", "entropy", "n_tokens"):
        assert column in run.variables
    events = dataset.events(dataset.runs[0])
    np.testing.assert_allclose(run.variables["surprisal"].values, events["surprisal"], atol=1e-6)
    assert list(run.variables["word"].values) == list(events["word"])
    series = layout.get(suffix="bold", desc="preproc", task="a", extension=".nii.gz")
    assert len(series) == 1 and series[0].get_metadata()["RepetitionTime"] == dataset.t_r(
        dataset.runs[0]
    )


def test_nilearn_reads_and_fits_it(dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models, images, events, confounds = first_level_from_bids(
            str(dataset.path), "a", dataset.space.label, derivatives_folder="derivatives/llm2bids",
            hrf_model=None, drift_model=None, img_filters=[("desc", "preproc")],
        )  # fmt: skip
    run = dataset.runs[0]
    assert models[0].t_r == dataset.t_r(run)
    masker = NiftiMasker(str(run.mask), standardize=None)
    rows = masker.fit_transform(images[0][0])
    assert rows.shape == (dataset.load_run(run).shape[3], dataset.space.n_units)
    assert len(events[0][0]) == len(dataset.events(run))
    assert list(confounds[0][0]) == list(dataset.confounds(run))
    matrix = pd.DataFrame({"surprisal": confounds[0][0]["word_surprisal"], "constant": 1.0})
    models[0].fit(images[0], design_matrices=[matrix])
    effect = dataset.space.to_units(models[0].compute_contrast("surprisal"))
    assert np.isfinite(effect).all() and effect.std() > 0
