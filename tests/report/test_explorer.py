"""What the page's maps and tables say is what the files say."""

import base64
import gzip
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from llm2bids.dataset.read import open_dataset
from llm2bids.report.explorer import coarsely, explorer_data
from llm2bids.report.maps import maps_body
from llm2bids.report.page import write_report
from llm2bids.report.quality import confound_correlations, quality_body
from llm2bids.report.recorded import coverage_body
from llm2bids.report.sources import find_sources, sidecar
from llm2bids.store.tables import read_table


@pytest.fixture(scope="module")
def sources(scanned):
    return replace(find_sources(scanned), page_dir=scanned)


@pytest.fixture(scope="module")
def entries(sources):
    data, left_out = explorer_data(sources)
    assert left_out == []
    return data["maps"]


def inflate(text, dtype):
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), dtype)


def values_of(entries, entry):
    """Values as the page's script reads them."""
    whole = entries[entry["like"]] if "like" in entry else entry
    steps = inflate(whole["data"], np.int8).astype(int)
    levels = entry.get("levels") or (np.arange(128) / 127) ** 2 * entry["limit"]
    return np.sign(steps) * np.asarray(levels)[np.abs(steps)]


def test_z_and_d_are_those_of_the_files(sources, entries):
    maps = {group_map.title: group_map for group_map in sources.maps if group_map.is_against_off}
    seen = set()
    for entry in entries:
        if entry["stat"] not in ("z", "cohensd") or entry["versus"] or "passes" in entry:
            continue
        expected = sources.unit_map(maps[entry["title"]].other(entry["stat"]))
        error = np.abs(values_of(entries, entry) - expected)
        share = 0.15 if entry["stat"] == "cohensd" else 0.02  # d has long tails; it is marked ≈
        assert (error < share * np.abs(expected) + 0.002 * np.abs(expected).max()).all()
        assert entry.get("rough", False) == (entry["stat"] == "cohensd")
        seen.add((entry["title"], entry["stat"]))
    assert seen == {(task, stat) for task in ("cats", "dogs") for stat in ("z", "cohensd")}


def test_units_that_pass_are_those_beyond_the_threshold(sources, entries):
    checked = 0
    for group_map in sources.maps:
        path = group_map.other("z")
        z, thresholds = sources.unit_map(path), sidecar(path)["TwoSidedThresholds"]
        for entry in entries:
            same = entry["title"] == group_map.title
            if "passes" in entry and same and entry["versus"] == group_map.is_against_others:
                bits = np.unpackbits(inflate(entry["passes"], np.uint8), bitorder="little")
                control = "fdr" if "FDR" in entry["unit"] else "bonferroni"
                cut = thresholds[control]["z"]
                expected = np.zeros(len(z), bool) if cut is None else np.abs(z) >= cut
                if "clusters" not in entry["unit"]:
                    np.testing.assert_array_equal(bits[: len(z)], expected)
                    assert expected.sum() == thresholds[control]["n_units"]
                    assert entry["level"].startswith("p < 0.05, ")
                    checked += 1
                else:
                    assert not (bits[: len(z)] & ~expected).any()
                    assert "in clusters of 10 units or more" in entry["level"]
    assert checked >= 4


def test_participants_maps_are_coarse_and_not_clipped(sources, entries):
    people = [entry for entry in entries if "subject" in entry]
    assert {(entry["subject"], entry["title"]) for entry in people} == {
        (f"sub-0{n}", task) for n in (1, 2, 3) for task in ("cats", "dogs")
    }
    entry = next(entry for entry in people if entry["subject"] == "sub-02")
    (path,) = (
        path
        for path in sources.files("sub-02/**/*_stat-effect_statmap.nii.gz")
        if f"contrast-{entry['title']}_" in path.name
    )
    expected, shown = sources.unit_map(path), values_of(entries, entry)
    error = np.abs(shown - expected)
    assert (error <= 0.25 * np.abs(expected) + 0.13 * entry["show"]).all()
    assert len(np.unique(shown)) < 30
    assert shown.max() == pytest.approx(expected.max(), rel=0.25)


def test_coarse_steps_keep_signs_outliers_and_gaps():
    steps, levels = coarsely(np.array([-100.0, -0.01, 0.35, np.nan, 1.0]), 1.0)
    assert steps[3] == -128
    assert steps[1] == 0
    assert np.asarray(levels)[np.abs(steps[[0, 2, 4]])] == pytest.approx([100, 0.35, 1], rel=0.25)
    assert steps[0] < 0 < steps[2]
    assert len(levels) == 128


def test_the_page_says_which_units_pass_and_what_participants_have(browser, page, entries, scanned):
    browser.open(page)
    number = next(n for n, entry in enumerate(entries) if "passes" in entry)
    bits = np.unpackbits(inflate(entries[number]["passes"], np.uint8), bitorder="little")
    space = open_dataset(scanned / "dataset").space
    browser.evaluate(
        f"(e => {{ e.value = {number}; e.dispatchEvent(new Event('change')) }})"
        "(document.getElementById('map-choice'))"
    )
    read = "document.getElementById('{}').textContent"
    assert browser.evaluate(read.format("map-level")) == entries[number]["level"]
    for unit in (3, 100, int(bits[: space.n_units].argmax())):
        browser.evaluate(f"location.hash = '#unit={space.address_of(unit)}'")
        browser.settle()
        said = browser.evaluate(read.format("read-value"))
        assert said.endswith(", passes" if bits[unit] else ", does not pass")
    rows = browser.evaluate(
        "[...document.querySelectorAll('#read-people li')].map(e => e.textContent)"
    )
    assert [row[:6] for row in rows] == ["sub-01", "sub-02", "sub-03"]
    assert browser.errors == []


def test_runs_have_their_numbers_and_files(sources):
    body = str(quality_body(sources, progress=False))
    run = sources.dataset.runs[0]
    row = re.search(rf"</span>{run.name}</th>(.*?)</tr>", body, re.S)[1]
    surprisal = sources.dataset.transcript(run)["surprisal"].mean()
    assert f"{surprisal:.2f}" in row
    links = re.findall(r'href="([^"]+)"', row)
    assert len(links) == 5
    assert all((sources.page_dir / link).is_file() for link in links)


def test_a_run_with_unusual_answers_is_marked(scanned, tmp_path):
    shutil.copytree(scanned / "dataset", tmp_path / "dataset")
    (path,) = (tmp_path / "dataset").rglob("sub-02_task-cats_desc-transcript_tokens.tsv")
    table = read_table(path)
    table["surprisal"] += 40
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    body = str(quality_body(find_sources(tmp_path), progress=False))
    marked = re.findall(r"</span>([^<]*)</th><td[^>]*>[^<]*</td><td[^>]*><strong>", body)
    assert marked == ["sub-02_task-cats"]


def test_confounds_are_correlated_within_runs(sources):
    mean, size = confound_correlations(sources)
    matrices = []
    for run in sources.dataset.runs:
        tokens = sources.dataset.transcript(run).dropna(subset=["volume"])
        is_on = (tokens["trial_type"].fillna("") != "").to_numpy(float)
        confound = sources.dataset.confounds(run)["surprisal_deviation"].to_numpy()
        matrices.append(np.corrcoef(is_on, confound)[0, 1])
    assert mean.loc["on block", "surprisal_deviation"] == pytest.approx(np.mean(matrices))
    assert size.loc["on block", "surprisal_deviation"] == pytest.approx(np.abs(matrices).max())


def test_contrasts_have_weights_and_every_file(sources):
    body = str(maps_body(sources))
    row = re.search(r"</span>cats</th>(.*?)</tr>", body, re.S)[1]
    assert "+1.00 cats" in row
    links = re.findall(r'href="([^"]+)"', row)
    assert len(links) >= 7
    assert all((sources.page_dir / link).is_file() for link in links)
    assert "was not measured on this dataset" in body


def test_a_page_elsewhere_names_no_folders_of_this_machine(scanned, tmp_path):
    page = write_report(scanned, output=tmp_path / "a" / "b" / "page.html", progress=False)
    text = page.read_text(encoding="utf-8")
    assert "../.." not in text
    assert str(scanned) not in text


def test_coverage_counts_units_outside_the_mask(masked, sources):
    analysis, inside = masked
    body = str(coverage_body(find_sources(analysis)))
    space = sources.dataset.space
    assert f"{inside.sum():,} of {space.n_units:,} units" in body
    roles = np.repeat([site.role for site in space.sites], [site.width for site in space.sites])
    n_queries = int((roles == "self_attn.q_proj").sum())
    assert f"{n_queries:,} of {n_queries:,} in <code>self_attn.q_proj</code>" in body
    assert "<code>mlp" not in body
    whole = str(coverage_body(sources))
    assert f"Every one of {space.n_units:,} units is in the mask" in whole
