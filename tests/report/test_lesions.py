"""The section of lesions, and its figures."""

import matplotlib.image
import numpy as np
import pytest

from llm2bids.intervention import results
from llm2bids.intervention.lesion_tables import Measured, lesion_result
from llm2bids.intervention.results import load_results
from llm2bids.report.interventions import intervention_sections, write_figures
from llm2bids.report.sources import Sources, find_sources


def nll(own, other, off):
    texts = {"tea": own, "coffee": other, "off": off}
    return {name: np.full((5, 2), 2.0 + change) for name, change in texts.items()}


@pytest.fixture
def result():
    lesions = [
        Measured("tea", dose, "tea", nll(gain, 0.02, 0.01)) for dose, gain in ((1, 0.4), (3, 0.77))
    ]
    lesions += [Measured("coffee", dose, "coffee", nll(0.3, 0.2, 0.15)) for dose in (1, 3)]
    draws = [
        Measured("tea", 1, "tea", nll(0.1 * n, 0, 0), kind="matched", draw=n) for n in range(3)
    ]
    return lesion_result(
        [Measured(nll=nll(0, 0, 0), kind="intact"), *lesions, *draws],
        related={"tea": (), "coffee": ()},
        prompts={name: list("abcde") for name in ("tea", "coffee", "off")},
        seed=0,
        metadata={
            "Model": "m", "Method": "mean", "Roles": ["act_fn"], "Criterion": ["top 1 %"],
            "MainDose": 1.0, "NumberOfPrompts": 5, "NumberOfDraws": 3,
        },
        edits={},
    )  # fmt: skip


def test_the_section_shows_what_was_measured(drinks, result, tmp_path):
    from llm2bids.inference.analyze import analyze_participants

    out_dir = tmp_path / "analysis"
    analyze_participants(drinks, out_dir, progress=False)
    sources = find_sources(out_dir, bids_dir=drinks)
    assert isinstance(sources, Sources)
    assert [section.name for section in intervention_sections(sources)] == ["interventions"]
    result.save(out_dir)
    body = intervention_sections(sources)[0].body
    assert "0.40" in body and "0.77" in body
    assert body.count("<svg") == 2 and body.count('class="heat"') == 2
    assert "no: the own topic does not lose more than unrelated text" in body
    assert "It does not show" in body
    (kept,) = load_results(out_dir, "lesion")
    assert kept.metadata["MainDose"] == 1.0


def test_figures_are_pictures(result, tmp_path):
    result.save(tmp_path)
    files = write_figures(result, tmp_path)
    assert [file.name for file in files] == ["lesion_given.png", "lesion_answers.png"]
    for file in files:
        pixels = matplotlib.image.imread(file)[..., :3]
        assert np.ptp(pixels) > 0.5 and pixels.shape[1] > 1000


def test_results_that_were_cut_off_are_not_read(result, tmp_path, monkeypatch):
    result.save(tmp_path)
    write, n_written = results.write_table, []

    def cut_off(path, table):
        if len(n_written) == 2:
            raise KeyboardInterrupt
        n_written.append(path)
        write(path, table)

    monkeypatch.setattr(results, "write_table", cut_off)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path)
    assert load_results(tmp_path, "lesion") == ()
