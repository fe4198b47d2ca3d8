"""The demo in small: the real model, all sites, both levels, the findings and the page."""

import json
import re

import pandas as pd
import pytest

from llm2bids.cli.main import main
from llm2bids.dataset.read import open_dataset

pytestmark = pytest.mark.slow

SMALL = ("--participants", "3", "--prompts-per-block", "2", "--tokens-per-prompt", "1", "-q")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo")
    assert main(["demo", str(path), *SMALL]) == 0
    return path


def test_every_task_is_scanned_whole(out):
    dataset = open_dataset(out / "dataset")
    assert dataset.space.n_units == 254_592
    assert len(dataset.runs) == 3 * 6
    assert {dataset.sidecar(run)["NumberOfVolumes"] for run in dataset.runs} == {6}


def test_the_four_findings_are_measured(out):
    findings = out / "analysis" / "group" / "findings"
    table = pd.read_csv(findings / "findings.tsv", sep="\t")
    assert set(table["finding"]) == {"identification", "overlap", "repeatability", "networks"}
    found = json.loads((findings / "findings.json").read_text())
    assert found["participants"] == ["01", "02", "03"]
    assert found["identification"]["n_tests"] == 18
    # even so little data tells random strings from text
    random = [one for one in found["identification"]["tests"] if one["shown"] == "randomstrings"]
    assert [one["correct"] for one in random] == [True] * 3


def test_the_page_has_every_section_and_nothing_from_outside(out):
    text = (out / "report.html").read_text()
    for heading in ("Identification", "Overlap", "Repeatability", "Quality", "Methods"):
        assert re.search(rf"<h2[^>]*>[^<]*{heading}", text), heading
    assert not re.search(r"(src|href)=.(https?:)?//", text)


def test_again_it_goes_on_and_records_nothing_anew(out, capsys):
    images = sorted((out / "dataset").rglob("*_bold.nii.gz"))
    before = [image.stat().st_mtime_ns for image in images]
    assert main(["demo", str(out), *SMALL, "--no-analysis"]) == 0
    assert [image.stat().st_mtime_ns for image in images] == before
    assert "0 errors" in capsys.readouterr().out


def test_two_participants_have_no_findings(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "out"), "--participants", "2"]) == 2
    assert "--no-analysis writes the dataset alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
