"""Options of the findings, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from llm2bids.inference.options import GroupOptions, Selection
from llm2bids.options import Options, option, shared

ControlName = Literal["shuffled-labels", "shuffled-tasks", "random-networks"]

_option = partial(option, group="findings (group level)")


@dataclass(frozen=True, kw_only=True)
class FindingsOptions(Options):
    """What makes a network, and which controls stand beside the findings.

    Overlap and repeatability compare the top share also where `min_cohens_d` makes the networks.
    `n_boot`, `n_perm`, `n_draws`: bootstrap samples of the overlap, permutations of the labels,
    draws of the curve.
    """

    top_percent: float = _option(
        5.0,
        "--top-percent P",
        "share of the units in a network, those with the largest effects",
        above=0,
        most=100,
    )
    min_cohens_d: float | None = _option(
        None,
        "--min-cohens-d D",
        "networks of units above this absolute d that survive --alpha, in place of --top-percent",
        least=0,
    )
    controls: Sequence[ControlName] = _option(
        (),
        "--control",
        "measure the findings under a control too: on and off labels of the prompts of each run "
        "shuffled, task labels of each participant's maps shuffled, random units of the same sites "
        "in place of the networks; repeatable",
        action="append",
    )
    control_datasets: Sequence[Path | str] = _option(
        (),
        "--control-dataset BIDS_DIR",
        "measure the same on another dataset with these tasks, e.g. one of `record "
        "--random-weights`; repeatable",
        action="append",
        type=Path,
    )
    n_control_draws: int = _option(20, "--n-control-draws", "of each --control", least=2)
    alpha: float = shared(GroupOptions, "alpha")
    seed: int = shared(GroupOptions, "random_state")
    allow_circular: bool = shared(Selection, "allow_circular")
    n_boot: int = 200
    n_perm: int = 1000
    n_draws: int = 20

    @property
    def share(self) -> float:
        """Share of the units in a network."""
        return self.top_percent / 100
