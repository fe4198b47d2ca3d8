"""Findings on the page: every number that the file has, and none that it has not."""

import json
import re
import shutil
from html import unescape

import nibabel as nib
import numpy as np
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.inference.provenance import Provenance
from llm2bids.network.dataset_findings import dataset_findings
from llm2bids.network.network import from_stat_maps, load_network
from llm2bids.report.findings import findings_sections, pair_matrix, summary_section, tile
from llm2bids.report.layers import depth_of
from llm2bids.report.maps import find_maps, strongest, strongest_section
from llm2bids.report.networks import group_network
from llm2bids.report.page import write_report
from llm2bids.report.results import FINDINGS, read_results
from llm2bids.report.sources import find_sources

PAIR = {
    "task_a": "cats", "task_b": "dogs", "correlation": 0.625, "correlation_low": 0.5,
    "correlation_high": 0.75, "dice": 0.375, "dice_low": 0.25, "dice_high": 0.4375,
    "chance": 0.025, "chance_within_site": 0.03, "chance_within_site_high": 0.05, "first": 1.0,
}  # fmt: skip
REPEATED = {
    "task": "cats", "single_run_r": 0.71, "single_run_r_low": 0.6, "single_run_r_high": 0.8,
    "other_tasks_r": 0.2, "participants_r": 0.86, "participants_r_low": None,
    "participants_r_high": None, "participants_full_r": 0.92, "participants_dice": 0.61,
    "participants_dice_low": 0.5, "participants_dice_high": 0.7, "prompts_r": 0.83,
    "prompts_r_low": 0.7, "prompts_r_high": 0.9, "prompts_full_r": 0.9, "prompts_dice": 0.58,
    "prompts_dice_low": 0.4, "prompts_dice_high": 0.6,
}  # fmt: skip
POINT = {"n_tokens": 3, "accuracy": 0.9, "low": 0.6, "high": 1.0, "draw_low": 0.8, "draw_high": 1.0,
         "n_tests": 6, "chance": 0.5}  # fmt: skip
CONTENTS = {
    "tasks": ["cats", "dogs"],
    "warnings": ["few <b>participants</b>"],
    "table": [
        {"finding": "identification", "measure": "accuracy", "value": 0.833, "low": 0.44,
         "high": 0.97, "text": "5 of 6 maps"},
        {"finding": "networks", "measure": "units", "value": 12730, "low": None, "high": None,
         "text": "cats & dogs"},
    ],
    "networks": [],
    "overlap": {"share": 0.05, "confidence": 0.9, "n_participants": 3, "pairs": [PAIR]},
    "repeatability": {
        "tasks": [REPEATED, {**REPEATED, "task": "dogs", "single_run_r": None}],
        "icc": {"kind": "ICC(C,1)", "targets": "tasks", "measurements": "participants",
                "quantiles": {"0.05": -0.1, "0.5": 0.45}},
    },
    "identification": {
        "method": "template correlation", "accuracy": 0.833, "low": 0.44, "high": 0.97,
        "confidence": 0.95, "n_correct": 5, "n_tests": 6, "chance": 0.5, "p_value": 0.1,
        "tasks": ["cats", "dogs"], "confusion": [[2, 1], [0, 3]],
        "controls": [{"name": "100 random units", "mean": 0.77, "low": 0.5, "high": 1.0,
                      "n_draws": 100, "p_value": None}],
        "curve": {"prompts": [{**POINT, "n_prompts": 1}, {**POINT, "n_prompts": 2}],
                  "tokens": [{**POINT, "n_prompts": 2}]},
        "note": "Identification is easy.",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def found(scanned, tmp_path_factory):
    """The scanned folder with findings and a network in it."""
    out = tmp_path_factory.mktemp("found") / "out"
    out.mkdir()
    (out / "dataset").symlink_to(scanned / "dataset")
    shutil.copytree(scanned / "analysis", out / "analysis")
    sources = find_sources(out)
    folder = (out / "analysis" / FINDINGS).parent
    shutil.rmtree(folder, ignore_errors=True)
    one = find_maps(sources)[0]
    network = from_stat_maps(
        {"effect": one.path}, sources.dataset.space, label=one.contrast, provenance=Provenance(),
        top_percent=10, fingerprint=sources.dataset.fingerprint,
    )  # fmt: skip
    network.save(folder / "networks" / f"{one.contrast}_network.tsv")
    entry = {"label": one.contrast, "task": one.task, "against": "off", "n_units": len(network),
             "n_fdr": 17, "n_fdr_anywhere": 23, "alpha": 0.05, "top_percent": 10.0,
             "criterion": network.criterion,
             "table": f"networks/{one.contrast}_network.tsv"}  # fmt: skip
    text = json.dumps({**CONTENTS, "networks": [entry]})
    (folder / "findings.json").write_text(text, encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def bodies(found):
    return {one.name: str(one.body) for one in findings_sections(find_sources(found))}


def values_of(sources, one):
    """Effects of the units of a contrast's network, NaN elsewhere."""
    return group_network(sources, one, depth_of(sources.dataset.space)).values


def plain(text):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


def test_overlap_shows_measures_chance_and_intervals(bodies):
    said = plain(bodies["overlap"])
    for number in ("0.62 [0.50, 0.75]", "0.38 [0.25, 0.44]", "0.025", "90 % intervals", "100 %"):
        assert number in said
    assert bodies["overlap"].count("·") >= 4  # the diagonals are empty


def test_repeatability_shows_what_was_compared_and_leaves_missing_values_out(bodies):
    said = plain(bodies["repeatability"])
    for number in ("0.86", "0.61", "0.83", "0.58", "0.71", "0.45"):
        assert number in said
    assert "nan" not in bodies["repeatability"]
    assert bodies["repeatability"].count("<svg") == 5


def test_identification_shows_confusion_controls_and_the_curve(bodies):
    said = plain(bodies["identification"])
    assert "5 of 6 maps" in said
    assert "95 % Wilson interval 44 to 97 %" in said
    assert "100 random units" in said
    assert "Identification is easy." in said
    assert bodies["identification"].count("<svg") == 1  # one point is no curve
    cells = re.findall(r"<td style[^>]*>([^<]*)</td>", bodies["identification"])
    assert cells == ["2", "1", "0", "3"]


def test_controls_stand_beside_the_data(found, tmp_path, bodies):
    assert "No control was measured" in bodies["controls"]
    assert "--control shuffled-labels" in bodies["controls"]
    out = tmp_path / "out"
    shutil.copytree(found, out, symlinks=True)
    path = out / "analysis" / FINDINGS
    row = {"control": "shuffled-labels", "measure": "a", "text": "accuracy <of> it",
           "real": 0.9375, "value": 0.175, "low": 0.0625, "high": 0.3125, "p_value": 0.04,
           "n_draws": 20}  # fmt: skip
    other = {**row, "control": "tiny <b>", "value": 0.4375, "low": None, "high": None}
    rows = [row, other, {**row, "measure": "b", "text": "r"}]
    controls = {"about": {"shuffled-labels": "on & off shuffled"}, "rows": rows}
    path.write_text(json.dumps({**json.loads(path.read_text()), "controls": controls}))
    body = next(one for one in findings_sections(find_sources(out)) if one.name == "controls").body
    said = plain(str(body))
    assert "accuracy <of> it 0.94 | 0.17 0.06 to 0.31 0.94 | 0.44" in said
    assert "r 0.94 | 0.17 0.06 to 0.31 –" in said
    assert "shuffled-labels: on & off shuffled" in said
    assert "<b>" not in str(body)


def test_calibration_says_plainly_that_it_was_not_run(bodies):
    assert "was not measured on this dataset" in bodies["calibration"]
    assert "llm2bids null " in bodies["calibration"]


@pytest.fixture
def calibrated(found, tmp_path):
    """The same with measured error rates; a function that writes others."""
    out = tmp_path / "out"
    shutil.copytree(found, out, symlinks=True)
    rate = {"pipeline": "x", "n": 60, "low": 0.042, "high": 0.0534, "verdict": "inside"}
    contents = {
        "about": {"model": "<b>cat</b>", "weights_sha256": "other", "n_runs": 60, "n_groups": 200,
                  "group_size": 8, "n_tested": 8000, "prompts_on": 8, "tokens_per_prompt": 12},
        "pipelines": [{"key": "x", "label": "prompt <ols>", "default": True, "options": "",
                       "verdict": "inside"}],
        "rates": [{**rate, "kind": "unit", "nominal": 0.05, "measured": 0.0474},
                  {**rate, "kind": "fdr", "nominal": 0.05, "measured": 0.05}],
    }  # fmt: skip

    def write(**changes):
        text = json.dumps({**contents, **changes})
        (out / "analysis" / "calibration.json").write_text(text)
        return find_sources(out)

    return write


def test_measured_error_rates_are_shown(calibrated):
    body = str(findings_sections(calibrated())[-1].body)
    said = plain(body)
    for words in ("prompt <ols> (default)", "0.047 [0.042 to 0.053]", "FDR 3 of 60", "inside",
                  "60 runs of off prompts", "200 groups of 8", "8,000 units"):  # fmt: skip
        assert words in said
    assert "<ols>" not in body
    assert "<b>cat" not in body


def test_rates_of_another_model_or_design_say_so(calibrated):
    sources = calibrated()
    settings = sources.dataset.settings
    said = plain(str(findings_sections(sources)[-1].body))
    assert f"measured with the model <b>cat</b> instead of {settings['model']}" in said
    assert f"8 prompts per block instead of {settings['prompts_per_block']}" in said
    about = {
        "model": settings["model"], "weights_sha256": settings["weights_sha256"], "n_runs": 60,
        "n_groups": 0, "group_size": 8, "n_tested": 7,
        "prompts_on": settings["prompts_per_block"],
        "tokens_per_prompt": settings["tokens_per_prompt"],
    }  # fmt: skip
    assert "instead of" not in plain(str(findings_sections(calibrated(about=about))[-1].body))


def test_a_damaged_calibration_is_named(calibrated):
    sources = calibrated(rates=[{"pipeline": "x"}])
    with pytest.raises(NetworkError, match=r"calibration\.json: is not what llm2bids writes"):
        findings_sections(sources)


def test_the_summary_says_doubts_and_numbers_escaped(found):
    sources = find_sources(found)
    body = str(summary_section(sources).body)
    assert "few &lt;b&gt;participants&lt;/b&gt;" in body
    said = plain(body)
    assert "cats & dogs" not in said  # networks have a section of their own
    for number in ("0.83", "0.44 to 0.97", "5 of 6 maps"):
        assert number in said
    assert tile(sources) == [("83%", "tasks identified")]


def test_profiles_take_the_network_that_was_written(found, scanned):
    sources = find_sources(found)
    one = find_maps(sources)[0]
    values = values_of(sources, one)
    n_units = sources.dataset.space.n_units
    assert np.count_nonzero(~np.isnan(values)) == int(np.ceil(n_units / 10))
    without = values_of(find_sources(scanned), one)
    assert np.count_nonzero(~np.isnan(without)) == round(n_units / 20)


def test_signs_and_values_come_from_the_network_and_not_from_the_group_map(found, tmp_path):
    """A group map that is 0 at the network's units, as outside a mask, changes nothing."""
    out = tmp_path / "out"
    shutil.copytree(found, out, symlinks=True)
    sources = find_sources(out)
    one = find_maps(sources)[0]
    before = load_network(
        (out / "analysis" / FINDINGS).parent / "networks" / f"{one.contrast}_network.tsv"
    )
    image = nib.load(one.path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.float32), None, image.header), one.path)
    values = values_of(sources, one)
    effects = before.table["effect"].to_numpy()
    np.testing.assert_array_equal(values[before.units(sources.dataset.space)], effects)
    rise = int((effects > 0).sum())
    assert 0 < rise < len(effects)
    said = plain(write_report(out, output=tmp_path / "page.html", progress=False).read_text())
    assert f"{len(effects):,} units, {rise:,} rise" in said
    assert f"{100 * rise / len(effects):.0f} % of its units rise" in said
    assert strongest(sources, one).units[0]["address"] == before.table["address"][0]


def test_counts_say_level_correction_and_cluster_size(found, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(found, out, symlinks=True)
    sources = find_sources(out)
    one = find_maps(sources)[0]
    for stat, changes in (
        ("z", {"Alpha": 0.01, "TwoSidedThresholds": {"fpr": {"z": 2.58, "n_units": 2000},
                                                     "fdr": {"z": 3.1, "n_units": 1532}}}),
        ("z_desc-fdr", {"Alpha": 0.01, "Threshold": 3.1, "ClusterThreshold": 12}),
    ):  # fmt: skip
        path = one.other(stat).with_name(one.other(stat).name.replace(".nii.gz", ".json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    table = next(one.path.parent.glob(f"*contrast-{one.contrast}_desc-fdr_clusters.tsv"))
    table.write_text("Cluster ID\tX\tY\tZ\tPeak Stat\tCluster Size (mm3)\n")
    said = plain(str(strongest_section(sources, find_maps(sources)).body))
    assert "p < 0.01, uncorrected p < 0.01, FDR p < 0.01, Bonferroni" in said
    assert "clusters, FDR, ≥ 12 units cats 2,000 1,532 – 0" in said
    assert (
        "No cluster of 12 units or more passes p < 0.01, FDR: the 1,532 units that pass lie in "
        "smaller ones." in said
    )


def test_identification_says_what_was_taken_off_and_what_p_is(bodies):
    said = plain(bodies["identification"])
    assert "Each participant's mean map over the tasks was taken off first" in said
    assert "p: share of draws, the data counted in, that do at least as well as the data" in said


def test_the_page_with_findings_has_no_errors(found, browser, tmp_path):
    page = write_report(found, output=tmp_path / "page.html", progress=False)
    for width in (1280, 390):
        browser.open(page, width=width, mobile=width < 500)
        assert browser.errors == []
        assert browser.evaluate("document.documentElement.scrollWidth") == width
    text = page.read_text(encoding="utf-8")
    assert text.index('id="findings"') < text.index('id="design"')
    assert "top 10 % |effect|" in text


def test_pairs_become_a_symmetric_matrix_in_the_order_of_the_tasks():
    import pandas as pd

    matrix = pair_matrix(pd.DataFrame([PAIR]), ["dogs", "cats"], "dice")
    assert matrix.loc["dogs", "cats"] == matrix.loc["cats", "dogs"] == 0.375
    assert np.isnan(np.diag(matrix)).all()


def test_without_findings_each_section_says_so(scanned, tmp_path):
    assert read_results(None).pairs is None
    assert read_results(tmp_path).table == []


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"overlap": {"share": 1}}',
        '{"overlap": {"pairs": [{"task_a": "cats"}]}}',
        '{"identification": 3}',
        '{"table": [{"finding": "overlap"}]}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / FINDINGS
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(NetworkError, match=r"findings\.json: is not what llm2bids writes .*again"):
        read_results(tmp_path)


def test_reads_what_the_group_level_writes(scanned, browser, tmp_path):
    """Every finding of a real dataset comes to the page, from the files that were written."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset").symlink_to(scanned / "dataset")
    shutil.copytree(scanned / "analysis", out / "analysis")
    sources = find_sources(out)
    measured = dataset_findings(out / "dataset", out / "analysis", progress=False)
    measured.save(out / "analysis", sources.dataset.space)
    bodies = {one.name: str(one.body) for one in findings_sections(sources)}
    said = {name: plain(body) for name, body in bodies.items()}
    pair = measured.overlap.pairs().iloc[0]
    assert f"{pair['task_a']} · {pair['task_b']} {pair['correlation']:.2f}" in said["overlap"]
    one = measured.identification
    assert f"{one.n_correct} of {one.n_tests} maps" in said["identification"]
    assert bodies["identification"].count("<svg") == 2
    assert bodies["repeatability"].count("<svg") == 5
    assert len(read_results(out / "analysis").networks) == 4
    for maps in find_maps(sources)[:2]:
        values = values_of(sources, maps)
        written = next(
            one for one in read_results(out / "analysis").networks if one["label"] == maps.contrast
        )
        assert np.count_nonzero(~np.isnan(values)) == written["n_units"]
    assert all(row["measure"] for row in read_results(out / "analysis").table)
    page = write_report(out, progress=False)
    browser.open(page)
    assert browser.errors == []
