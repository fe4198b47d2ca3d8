"""The site is built without a warning, and knows everything that the package exports."""

import subprocess
import sys
from pathlib import Path

import pytest

import llm2bids

ROOT = Path(__file__).parents[2]


def test_the_api_page_lists_every_export():
    text = (ROOT / "docs" / "reference" / "api.md").read_text()
    listed = {line.strip() for line in text.splitlines() if line.startswith("   ")}
    assert set(llm2bids.__all__) - {"__version__"} <= listed


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """Every link between the pages holds, too: a target that is not there is a warning."""
    pytest.importorskip("sphinx_gallery", reason="extra docs is not installed")
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "docs", str(tmp_path / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "reference" / "api" / "llm2bids.record.html").read_text()
    assert "n_participants" in page
    assert "Group analysis of a brain or of a model" in (
        tmp_path / "html" / "gallery" / "group_analysis.html"
    ).read_text(encoding="utf-8")
