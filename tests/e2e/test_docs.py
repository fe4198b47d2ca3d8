"""The pages: commands and options that exist, a site without a warning, everything exported."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import llm2bids
from llm2bids.cli.main import build_parser

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]


def commands(page):
    """Lines of code that call llm2bids, whole."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if (line := line.strip().removeprefix("$ ")).startswith("llm2bids "):
                yield line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_understood(page, capsys):
    for command in commands(page):
        arguments = shlex.split(command, comments=True)[1:]
        try:
            build_parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{command}: {capsys.readouterr().err}")


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


def test_what_verbs_return_is_exported_too():
    exported = [getattr(llm2bids, name) for name in llm2bids.__all__ if name != "__version__"]
    verbs = [verb for verb in exported if inspect.isfunction(verb)]
    returned = {verb.__name__: inspect.signature(verb).return_annotation for verb in verbs}
    ours = {
        name: kind
        for name, kind in returned.items()
        if isinstance(kind, type) and kind.__module__.startswith("llm2bids.")
    }
    assert {"lesion", "analyze_group", "dataset_findings", "validate"} <= set(ours)
    missing = {name: kind for name, kind in ours.items() if kind not in exported}
    assert not missing
