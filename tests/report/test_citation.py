"""What was done and what to cite, in every output; the words are the report's."""

import re

import pytest

from llm2bids.cli import main as cli
from llm2bids.dataset.check import check_dataset
from llm2bids.dataset.validate import validate
from llm2bids.report.page import write_report

RECORD = ["--participants", "2", "--task", "pathology", "--prompts-per-block", "2",
          "--tokens-per-prompt", "2", "--device", "cpu", "-q"]  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tiny_model_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("cited") / "dataset"
    assert cli.main(["record", str(path), "--model", str(tiny_model_dir("llama")), *RECORD]) == 0
    return path


@pytest.fixture(scope="module")
def analysed(recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("cited") / "analysis"
    for level in ("participant", "group"):
        assert cli.main(["analyze", str(recorded), str(out), level, "-q"]) == 0
    return out


def methods(folder):
    text = (folder / "logs" / "CITATION.md").read_text(encoding="utf-8")
    return re.search(r"# Methods, ready to paste\n\n(.*?)\n\n## Software", text, re.DOTALL)[1]


def test_a_recorded_dataset_says_what_was_done(recorded):
    text = methods(recorded / "derivatives" / "llm2bids")
    assert "2 participants, each a draw of prompts and a sampling seed" in text
    assert "general linear model" not in text
    entries = (recorded / "derivatives/llm2bids/logs/CITATION.bib").read_text(encoding="utf-8")
    assert re.findall(r"@\w+\{(\w+),", entries) == [
        "nencka2023functional", "abraham2014machine", "gorgolewski2016brain", "yarkoni2019pybids"
    ]  # fmt: skip
    assert entries.count("{") == entries.count("}")


def test_the_dataset_stays_whole_and_valid(recorded):
    assert not check_dataset(recorded).faults
    result = validate(recorded)
    assert result.n_errors == 0
    assert not [issue for issue in result.issues if "logs" in issue.file]


def test_an_analysis_says_it_in_the_reports_words(recorded, analysed):
    text = methods(analysed)
    page = write_report(analysed, bids_dir=recorded, progress=False).read_text(encoding="utf-8")
    (shown,) = re.findall(r'<p id="methods-text">(.*?)</p>', page, re.DOTALL)
    assert text == shown.replace("&#39;", "'").replace("&amp;", "&")
    assert "Effects of 2 participants were tested with a one-sample second-level model" in text


def test_a_stats_model_says_it_too(recorded, tmp_path):
    model = recorded / "code" / "models" / "task-pathology_smdl.json"
    out = tmp_path / "out"
    options = ["dataset", "--model", str(model), "--noise-model", "ols", "-q"]
    assert cli.main(["analyze", str(recorded), str(out), *options]) == 0
    text = methods(out)
    assert "The BIDS Stats Model pathology was run with llm2bids" in text
    assert "nodes run (run, glm) and dataset (dataset, glm)" in text
    assert "Each of 2 runs was fitted by a general linear model (node run; noise model ols" in text
