"""Lesion the tasks' networks, and measure what the model loses.

Set the units of each task's network to their calibration mean (a virtual lesion, an ablation) while
the model reads held-out text of every task and of none, and measure the change of the negative log
likelihood a token: a matrix of networks by texts, beside random units that are matched by site and
activation, networks of shuffled tasks, and the untrained architecture. Writes tables, edit files
and figures to group/lesion of the analysis. A lesion shows which text needs these units as they
are; not that the topic is stored in them.
"""

import argparse
from typing import Any

from llm2bids.cli import options
from llm2bids.intervention.lesion import LesionOptions
from llm2bids.intervention.subject import SubjectOptions


def _draw(args: argparse.Namespace, result: Any) -> None:
    from llm2bids.report.interventions import write_figures

    write_figures(result, args.analysis_dir)


add_arguments, run = options.described(
    "lesion", LesionOptions, SubjectOptions, positionals=options.analysis, then=_draw
)
