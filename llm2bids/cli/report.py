"""Write what was recorded and found as one HTML page.

Write one HTML page that needs nothing from outside: design, quality, group maps to explore,
networks, overlap, repeatability, identification, and a methods paragraph to paste. Parts that were
not computed are left out, with the command that makes them.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.cli.options import add


def _arguments(parser: argparse.ArgumentParser) -> None:
    text = "what `llm2bids demo` or `llm2bids analyze` wrote, or a dataset"
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help=text)
    text = "the dataset (default: OUT_DIR, OUT_DIR/dataset, or what the analysis links to)"
    add(parser, "--dataset", text, dest="bids_dir", type=Path, metavar="BIDS_DIR")
    text = "the analysis (default: OUT_DIR or OUT_DIR/analysis)"
    add(parser, "--analysis", text, dest="analysis_dir", type=Path, metavar="DIR")
    add(parser, "-o, --output", "the page (OUT_DIR/report.html)", type=Path, metavar="FILE")
    text = "write a page for NiiVue of each task's group map too, which the page links to"
    options.flag(parser, "--niivue", text)


add_arguments, run = options.described("write_report", positionals=_arguments, show=str)
