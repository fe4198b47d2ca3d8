"""Findings on the page: every number that the file has, and none that it has not."""

import json
import re
import shutil
from dataclasses import replace
from html import unescape

import nibabel as nib
import numpy as np
import pytest

from llm2bids.exceptions import NetworkError
from llm2bids.inference.analyze import analyze_group
from llm2bids.network.controls import P_VALUE
from llm2bids.network.dataset_findings import dataset_findings
from llm2bids.network.findings import FOLDER
from llm2bids.report.findings import (
    calibration_body,
    controls_body,
    identification_body,
    overlap_body,
    repeatability_body,
    summary_body,
)
from llm2bids.report.maps import strongest, strongest_body
from llm2bids.report.networks import flat_maps_body, group_network
from llm2bids.report.page import write_report
from llm2bids.report.section import interval, number
from llm2bids.report.sources import find_sources


@pytest.fixture(scope="module")
def found(scanned, tmp_path_factory):
    """The scanned folder with real findings in it, beside two controls."""
    out = tmp_path_factory.mktemp("found") / "out"
    out.mkdir()
    (out / "dataset").symlink_to(scanned / "dataset")
    shutil.copytree(scanned / "analysis", out / "analysis")
    findings = dataset_findings(
        out / "dataset",
        out / "analysis",
        top_percent=10.0,
        controls=("shuffled-labels", "random-networks"),
        n_control_draws=3,
        progress=False,
    )
    findings.save(out / "analysis", find_sources(out).dataset.space)
    return out


@pytest.fixture(scope="module")
def sources(found):
    return find_sources(found)


@pytest.fixture(scope="module")
def measured(sources):
    return sources.findings


@pytest.fixture(scope="module")
def bodies(sources):
    return {
        "overlap": str(overlap_body(sources)),
        "repeatability": str(repeatability_body(sources)),
        "identification": str(identification_body(sources)),
        "controls": str(controls_body(sources)),
        "calibration": str(calibration_body(sources)),
    }


@pytest.fixture
def copied(found, tmp_path):
    """A copy of the folder, to be changed."""
    return shutil.copytree(found, tmp_path / "out", symlinks=True)


@pytest.fixture
def with_findings(found):
    """Make a function that gives the sources of a report with some of the findings replaced."""

    def make(**changes):
        sources = find_sources(found)
        sources.__dict__["findings"] = replace(sources.findings, **changes)
        return sources

    return make


def values_of(sources, one):
    """Effects of the units of a contrast's network, NaN elsewhere."""
    return group_network(sources, one).values


def plain(text):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


def test_overlap_shows_measures_chance_and_intervals(measured, bodies):
    text = plain(bodies["overlap"])
    (pair,) = measured.overlap.pairs().to_dict("records")
    for measure in ("correlation", "dice"):
        bounds = interval(pair[f"{measure}_low"], pair[f"{measure}_high"])
        assert f"{number(pair[measure])} [{bounds}]" in text
    assert "Dice of the 10 % of units" in text
    assert f"{number(pair['chance'], 3)}" in text
    assert f"{pair['first']:.0%}".replace("%", " %") in text
    assert f"{measured.overlap.confidence:.0%} intervals".replace("%", " %") in text
    assert bodies["overlap"].count("·") >= 4  # the diagonals are empty


def test_repeatability_shows_what_was_compared(measured, bodies):
    text = plain(bodies["repeatability"])
    part = measured.repeatability
    for values in (
        *(part.participants.mean_r, part.participants.mean_dice, part.prompts.mean_r),
        *(part.prompts.mean_dice, part.single_run.mean_r, part.icc.quantiles.values()),
    ):
        assert all(number(value) in text for value in values)
    assert "nan" not in bodies["repeatability"]
    assert bodies["repeatability"].count("<svg") == 5


def test_what_was_not_measured_is_not_shown_and_said_with_its_reason(measured, with_findings):
    sources = with_findings(
        repeatability=replace(measured.repeatability, prompts=None),
        by_tokens=None,
        omitted={"halves of the prompts": "too <few>", "by_tokens": "too <few>"},
    )
    assert repeatability_body(sources).count("<svg") == 3
    assert identification_body(sources).count("<svg") == 1
    text = plain(str(summary_body(sources)))
    assert "Not measured: halves of the prompts and by tokens. too <few>" in text


def test_identification_says_what_was_taken_off_and_what_p_is(measured, bodies):
    text = plain(bodies["identification"])
    one = measured.identification
    low, high = one.interval()
    assert f"{one.n_correct} of {one.n_tests} maps" in text
    assert f"95 % Wilson interval {100 * low:.0f} to {100 * high:.0f} %" in text
    assert "each participant's mean map over the tasks taken off first" in text
    assert f"mean maps left in: {one.n_correct_with_mean} of {one.n_tests}" in text
    assert f"p: {P_VALUE}" in text
    for control in measured.controls[:2]:
        (measure,) = control.measures
        assert f"{control.name} {number(measure.value)}" in text
        assert f"{measure.n_draws:,} {measure.p_value:.2g}" in text
    assert bodies["identification"].count("<svg") == 2
    cells = re.findall(r"<td style[^>]*>([^<]*)</td>", bodies["identification"])
    assert cells == [str(n) for n in one.confusion.to_numpy().ravel()]


def test_controls_stand_beside_the_data(measured, bodies):
    text = plain(bodies["controls"])
    names = [control.name for control in measured.controls[2:]]
    assert names == ["shuffled-labels", "random-networks"]
    assert f"measure {' '.join(names)}" in text
    for control in measured.controls[2:]:
        assert f"{control.name}: {control.about}" in text
        for one in control.measures:
            bounds = interval(one.low, one.high)
            assert f"{number(one.real)} | {number(one.value)} {bounds}" in text
    assert "share of units past false discovery rate 0.05" in text


def test_a_control_of_one_draw_has_no_interval_and_names_are_escaped(measured, with_findings):
    control = measured.controls[2]
    (one, *_) = control.measures
    single = replace(one, low=np.nan, high=np.nan, p_value=np.nan, n_draws=1, value=0.4375)
    other = replace(control, name="tiny <b>", measures=(single,))
    sources = with_findings(controls=(*measured.controls, other))
    body = str(controls_body(sources))
    assert f"{number(one.real)} | 0.44 single".removesuffix(" single") in plain(body)
    assert "tiny <b>" not in body
    assert "nan" not in body


def test_without_controls_the_page_says_how_to_measure_them(measured, with_findings):
    sources = with_findings(controls=measured.controls[:2])
    body = str(controls_body(sources))
    assert "No control was measured" in body
    assert "--control shuffled-labels" in body


def test_calibration_says_plainly_that_it_was_not_run(bodies):
    assert "was not measured on this dataset" in bodies["calibration"]
    assert "llm2bids null " in bodies["calibration"]


@pytest.fixture
def calibrated(copied):
    """The same with measured error rates; a function that writes others."""
    rate = {"pipeline": "x", "n": 60, "low": 0.042, "high": 0.0534, "verdict": "inside",
            "binomial_low": 0.04, "binomial_high": 0.05}  # fmt: skip
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
        (copied / "analysis" / "calibration.json").write_text(text)
        return find_sources(copied)

    return write


def test_measured_error_rates_are_shown(calibrated):
    body = str(calibration_body(calibrated()))
    said = plain(body)
    for words in ("prompt <ols> (default)", "0.047 [0.042 to 0.053]", "FDR 3 of 60", "inside",
                  "60 runs of off prompts", "200 groups of 8", "8,000 units"):  # fmt: skip
        assert words in said
    assert "<ols>" not in body
    assert "<b>cat" not in body


def test_rates_of_another_model_or_design_say_so(calibrated):
    sources = calibrated()
    settings = sources.dataset.settings
    said = plain(str(calibration_body(sources)))
    assert f"measured with the model <b>cat</b> instead of {settings['model']}" in said
    assert f"8 prompts per block instead of {settings['prompts_per_block']}" in said
    about = {
        "model": settings["model"], "weights_sha256": settings["weights_sha256"], "n_runs": 60,
        "n_groups": 0, "group_size": 8, "n_tested": 7,
        "prompts_on": settings["prompts_per_block"],
        "tokens_per_prompt": settings["tokens_per_prompt"],
    }  # fmt: skip
    assert "instead of" not in plain(str(calibration_body(calibrated(about=about))))


def test_a_damaged_calibration_is_named(calibrated):
    sources = calibrated(rates=[{"pipeline": "x"}])
    with pytest.raises(NetworkError, match=r"calibration\.json: is not what llm2bids writes"):
        calibration_body(sources)


def test_the_summary_says_doubts_model_and_numbers_escaped(measured, with_findings):
    sources = with_findings(cautions=("few <b>participants</b>",))
    body = str(summary_body(sources))
    assert "few &lt;b&gt;participants&lt;/b&gt;" in body
    text = plain(body)
    assert "units (top" not in text  # networks have a section of their own
    assert f"{measured.model}; {measured.n_units:,} of {measured.n_units_of_space:,} units" in text
    for row in measured.table().to_dict("records"):
        if row["finding"] != "networks":
            shown = " ".join(
                filter(None, [number(row["value"]), interval(row["low"], row["high"])])
            )
            assert f"{row['measure']} {shown} {row['text']}" in text


def test_profiles_take_the_network_that_was_written(sources, scanned):
    one = sources.maps[0]
    values = values_of(sources, one)
    n_units = sources.dataset.space.n_units
    assert np.count_nonzero(~np.isnan(values)) == int(np.ceil(n_units / 10))
    without = find_sources(scanned)
    assert without.findings is None
    assert np.count_nonzero(~np.isnan(values_of(without, one))) == int(np.ceil(n_units / 20))


def test_signs_and_values_come_from_the_network_and_not_from_the_group_map(copied):
    """A group map that is 0 at the network's units, as outside a mask, changes nothing."""
    sources = find_sources(copied)
    one = sources.maps[0]
    before = sources.networks[one.contrast].network
    image = nib.load(one.path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.float32), None, image.header), one.path)
    values = values_of(sources, one)
    effects = before.table["effect"].to_numpy()
    np.testing.assert_array_equal(values[before.units(sources.dataset.space)], effects)
    rise = int((effects > 0).sum())
    assert 0 < rise < len(effects)
    page = write_report(copied, progress=False).read_text()
    accuracy = sources.findings.identification.accuracy
    assert f"<dt>tasks identified</dt><dd>{accuracy:.0%}</dd>" in page
    said = plain(page)
    assert f"{len(effects):,} units, {rise:,} rise" in said
    assert f"{100 * rise / len(effects):.0f} % of its units rise" in said
    assert strongest(sources, one)["units"][0]["address"] == before.table["address"][0]


def test_counts_say_level_correction_and_cluster_size(copied):
    sources = find_sources(copied)
    one = sources.maps[0]
    for stat, changes in (
        ("z", {"Alpha": 0.01, "TwoSidedThresholds": {"fpr": {"z": 2.58, "n_units": 2000},
                                                     "fdr": {"z": 3.1, "n_units": 1532}}}),
        ("z_desc-fdr", {"Alpha": 0.01, "Threshold": 3.1, "ClusterThreshold": 12}),
    ):  # fmt: skip
        path = one.other(stat).with_name(one.other(stat).name.replace(".nii.gz", ".json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    table = next(one.path.parent.glob(f"*contrast-{one.contrast}_desc-fdr_clusters.tsv"))
    table.write_text("Cluster ID\tX\tY\tZ\tPeak Stat\tCluster Size (mm3)\n")
    said = plain(str(strongest_body(sources)))
    assert "p < 0.01, uncorrected p < 0.01, FDR p < 0.01, Bonferroni" in said
    assert "clusters, FDR, ≥ 12 units cats 2,000 1,532 – 0" in said
    assert (
        "No cluster of 12 units or more passes p < 0.01, FDR: the 1,532 units that pass lie in "
        "smaller ones." in said
    )


def test_the_page_with_findings_has_no_errors(found, browser, tmp_path):
    page = write_report(found, output=tmp_path / "page.html", progress=False)
    for width in (1280, 390):
        browser.open(page, width=width, mobile=width < 500)
        assert browser.errors == []
        assert browser.evaluate("document.documentElement.scrollWidth") == width
    text = page.read_text(encoding="utf-8")
    assert text.index('id="findings"') < text.index('id="design"')
    assert "top 10 % |effect|" in text


def test_each_pair_of_tasks_has_its_tip_in_both_halves_of_the_matrix(sources, measured, bodies):
    first, second = (task for task in sources.tasks if task in measured.tasks)
    (pair,) = measured.overlap.pairs().to_dict("records")
    for measure in ("correlation", "dice"):
        bounds = interval(pair[f"{measure}_low"], pair[f"{measure}_high"])
        for names in (f"{first} and {second}", f"{second} and {first}"):
            assert f'title="{names}: {number(pair[measure])} [{bounds}]"' in bodies["overlap"]
    assert f'title="{first} and {first}' not in bodies["overlap"]


def test_without_findings_each_section_says_so(scanned):
    sources = find_sources(scanned)
    assert not summary_body(sources)
    for body in (overlap_body, repeatability_body, identification_body):
        assert "was not computed" in body(sources)
    assert "No control was measured" in controls_body(sources)


def test_damaged_findings_are_named(copied):
    path = copied / "analysis" / FOLDER / "findings.json"
    path.write_text('{"networks": [], "overlap": 3}', encoding="utf-8")
    with pytest.raises(NetworkError, match=r"findings\.json: is not what .* again"):
        write_report(copied, progress=False)


def test_the_page_of_a_masked_analysis_counts_what_its_table_counts(masked, tmp_path):
    """Units outside the mask are in no network, and signs are those of the network's table."""
    analysis, inside = masked
    out = tmp_path / "analysis"
    shutil.copytree(analysis, out)
    dataset = find_sources(analysis).dataset
    findings = dataset_findings(dataset.path, out, top_percent=20.0, progress=False)
    findings.save(out, dataset.space)
    sources = find_sources(out, bids_dir=dataset.path)
    body = plain(str(flat_maps_body(sources)))
    for one in sources.maps[:2]:
        table = sources.networks[one.contrast].network.table
        units = sources.networks[one.contrast].network.units(dataset.space)
        assert inside[units].all()
        rise = np.count_nonzero(table["effect"] > 0)
        assert f"{one.title} {len(table):,} units, {rise:,} rise" in body
    text = plain(str(summary_body(sources)))
    assert f"{np.count_nonzero(inside):,} of {len(inside):,} units" in text


def test_masks_of_participants_who_are_not_in_the_group_do_not_count(scanned, masked, tmp_path):
    analysis, inside = masked
    out = tmp_path / "analysis"
    shutil.copytree(scanned / "analysis", out)
    for path in (analysis / "sub-03" / "func").glob("*_desc-brain_mask.nii.gz"):
        shutil.copy(path, out / "sub-03" / "func" / path.name)
    sources = find_sources(out, bids_dir=scanned / "dataset")
    np.testing.assert_array_equal(sources.analysed, inside)
    analyze_group(scanned / "dataset", out, participant_label=["01", "02"], progress=False)
    assert find_sources(out, bids_dir=scanned / "dataset").analysed.all()
