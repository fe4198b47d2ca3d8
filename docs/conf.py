"""Sphinx: the pages of this folder, the API from its docstrings, the examples as a gallery."""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from example_runs import PATTERN, ExampleRuns  # noqa: E402

import llm2bids  # noqa: E402

project = "llm2bids"
author = copyright = "llm2bids developers"
version = release = llm2bids.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["README.md", "_build", "examples", "figures/performance.md"]
myst_heading_anchors = 4
autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
numpydoc_show_class_members = False
autodoc_typehints = "none"  # numpydoc's sections have them, with shapes and units
python_use_unqualified_type_names = True

html_theme = "pydata_sphinx_theme"  # has a switch for dark mode and a search
html_title = f"llm2bids {version}"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}
html_sidebars = {"index": []}
html_show_sourcelink = False


# The examples take a dataset on the command line. scripts/docs records one and names it here;
# without it the gallery shows the scripts and does not run them.
_DATASET = os.environ.get("LLM2BIDS_DOCS_DATASET", "")
_RUNS = ExampleRuns(_DATASET, HERE / "_build" / "examples")
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    # what takes another dataset than that one is only shown
    "filename_pattern": PATTERN if _DATASET else r"^$",
    "reset_argv": _RUNS,
    "image_scrapers": (_RUNS.pictures,),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
}


def _plain_stars(_app, _what, _name, _object, _options, lines):
    # Patterns such as model.layers.*.mlp are no emphasis. Signatures keep theirs.
    lines[:] = [line if "``" in line else re.sub(r"(?<=[.-])\*", r"\*", line) for line in lines]


def setup(app):
    """Let Sphinx mend the docstrings first."""
    app.connect("autodoc-process-docstring", _plain_stars)
