"""The page as text: what it holds, what it leaves out, and what it refuses."""

import base64
import json
import re
import shutil
from urllib.parse import unquote

import numpy as np
import pytest

from llm2bids.cli.main import main
from llm2bids.dataset.read import open_dataset
from llm2bids.exceptions import UsageError
from llm2bids.report.draw.mosaic import flat_pages
from llm2bids.report.page import write_report
from llm2bids.report.sources import find_sources

SECTIONS = [
    "design",
    "recorded",
    "quality",
    "designs",
    "coverage",
    "maps",
    "strongest",
    "networks",
    "methods",
]


@pytest.fixture(scope="module")
def text(page):
    return page.read_text(encoding="utf-8")


@pytest.fixture
def bare(scanned, tmp_path):
    """The same folder without analysis."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset").symlink_to(scanned / "dataset")
    return tmp_path / "out"


def test_sections_come_in_order_and_are_linked(text):
    found = re.findall(r'<section id="([^"]+)"', text)
    assert [name for name in found if name in SECTIONS] == SECTIONS
    assert re.findall(r'<li><a href="#([^"]+)"', text) == found


def test_no_address_but_of_files_beside_the_page(text, page):
    addresses = re.findall(r'<[^>]*\s(?:src|href)="([^"]+)"', text)
    assert addresses
    kinds = {address.partition(",")[0].partition("#")[0] for address in addresses}
    links = {address for address in kinds if address.endswith((".nii.gz", ".tsv", ".json"))}
    assert kinds - links <= {"", "data:image/png;base64", "data:"}
    assert len(links) > 20
    missing = [link for link in links if not (page.parent / unquote(link)).is_file()]
    assert missing == []
    assert all(target.startswith("#") for target in re.findall(r"url\((.)", text))
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_prompts_and_paradigm_are_escaped(text):
    assert "<script>document.title" not in text
    assert "&lt;script&gt;document.title=&#39;hacked&#39;&lt;/script&gt;" in text
    assert "&lt;b&gt;off&lt;/b&gt;" in text
    assert text.count("<script>") == 1


def test_the_packed_layout_puts_every_unit_on_its_page(text, scanned):
    space = open_dataset(scanned / "dataset").space
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', text, re.S)[1])
    grids = [np.frombuffer(base64.b64decode(grid), "<u2") for grid in data["grids"]]
    pages = flat_pages(space)
    drawn = np.full((space.n_units, 3), -1)
    for site, page, left, top, columns, rows, grid in data["pieces"]:
        cells = grids[grid].reshape(rows, columns)
        for row, column in np.argwhere(cells):
            unit = data["sites"][site][5] + cells[row, column] - 1
            drawn[unit] = (left + column, top + row, page)
    np.testing.assert_array_equal(drawn, np.column_stack([pages.at, pages.page]))
    assert [site[0] for site in data["sites"]] == [site.name for site in space.sites]


def test_methods_name_versions_and_numbers(text, scanned):
    methods = re.search(r'id="methods-text">(.*?)</p>', text, re.S)[1]
    assert "3 participants" in methods
    assert "2 tasks (cats and dogs)" in methods
    assert re.search(r"nilearn \d+\.\d+", methods)
    assert re.search(r"llm2bids \d+\.\d+", methods)
    assert "noise_model ols" in methods
    assert "not to other models" in methods
    assert "2311.10898" in text


def test_without_analysis_each_part_names_its_command(bare):
    path = write_report(bare, progress=False)
    assert path == bare / "report.html"
    text = path.read_text(encoding="utf-8")
    assert "There are no group maps yet" in text
    assert "llm2bids analyze dataset analysis participant" in text
    assert "No statistics were computed on these data yet" in text
    assert str(bare) not in text
    assert 'id="map-data"' not in text


def test_the_output_of_analyze_finds_its_dataset(scanned, tmp_path):
    analysis = scanned / "analysis"
    sources = find_sources(analysis)
    assert sources.dataset.path.resolve() == (scanned / "dataset").resolve()
    assert sources.analysis == analysis


def test_the_command_writes_the_page_and_says_where(scanned, tmp_path, capsys):
    output = tmp_path / "sub" / "page.html"
    argv = ["report", str(scanned / "dataset"), "-q", "-o", str(output)]
    assert main([*argv, "--analysis", str(scanned / "analysis")]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert "statistical maps" in output.read_text(encoding="utf-8")
    assert [path.name for path in output.parent.iterdir()] == ["page.html"]


def test_a_map_of_another_dataset_is_refused(scanned, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(scanned, out)
    for path in (out / "analysis" / "group").glob("*contrast-cats_stat-effect_statmap.nii.gz"):
        path.write_bytes(b"no image")
    with pytest.raises(Exception, match="statmap"):
        write_report(out, progress=False)
    assert not (out / "report.html").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out, tmp: {"out_dir": tmp / "none"}, "is not a folder; expected one that"),
        (lambda out, tmp: {"out_dir": tmp}, "no dataset of llm2bids there"),
        (lambda out, tmp: {"out_dir": out / "dataset"}, "is the dataset itself.*--output FILE"),
        (
            lambda out, tmp: {"out_dir": out, "analysis_dir": tmp},
            "holds no results of llm2bids analyze; run",
        ),
        (lambda out, tmp: {"out_dir": out, "bids_dir": tmp}, "name it: --dataset BIDS_DIR"),
    ],
)
def test_says_what_is_missing(scanned, tmp_path, make, message):
    with pytest.raises(UsageError, match=message):
        write_report(**make(scanned, tmp_path), progress=False)


def test_the_page_says_how_exact_the_recording_is(text, scanned):
    record = json.loads((scanned / "dataset" / "code" / "exactness.json").read_text())
    largest = max(record["LargestError"].values())
    assert f"sites differ by at most\n  {largest:.1g} of their largest value" in text
    assert record["BatchingDescription"] in text
    assert not record["LeftOut"]
    assert "left out, because batched generation" not in text


def test_sites_that_were_left_out_are_named(scanned, tmp_path):
    shutil.copytree(scanned / "dataset", tmp_path / "dataset")
    path = tmp_path / "dataset" / "code" / "exactness.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "LeftOut": {"model.mixer": "differs <by> 0.3"}}))
    page = write_report(tmp_path, progress=False).read_text(encoding="utf-8")
    assert "<code>model.mixer</code> (differs &lt;by&gt; 0.3)" in page
    path.unlink()  # a dataset of an earlier version
    assert "<dt>exactness</dt>" not in write_report(tmp_path, progress=False).read_text("utf-8")


def test_quantization_and_adapter_are_named(scanned, tmp_path, text):
    assert "quantized" not in text
    shutil.copytree(scanned / "dataset", tmp_path / "dataset")
    path = tmp_path / "dataset" / "code" / "llm2bids_settings.json"
    settings = json.loads(path.read_text())
    settings |= {"quantization": "gptq, 4 bits", "adapter": "my/lora"}
    path.write_text(json.dumps(settings))
    page = write_report(tmp_path, progress=False).read_text(encoding="utf-8")
    assert "</strong> (quantized: gptq, 4 bits) with the adapter <code>my/lora</code>," in page
    assert "with the adapter my/lora, quantized (gptq, 4 bits) (weights" in page
