"""Options of the findings, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from llm2bids.exceptions import UsageError
from llm2bids.inference.options import GroupOptions, Selection
from llm2bids.options import option, shared

ControlName = Literal["shuffled-labels", "shuffled-tasks", "random-networks"]
CONTROLS: tuple[ControlName, ...] = get_args(ControlName)

_option = partial(option, group="findings (group level)")


@dataclass(frozen=True, kw_only=True)
class FindingsOptions:
    """What makes a network, and which controls stand beside the findings.

    Overlap and repeatability compare the top share also where `min_cohens_d` makes the networks.
    `n_boot`, `n_perm`, `n_draws`: bootstrap samples of the overlap, permutations of the labels,
    draws of the curve.
    """

    top_percent: float = _option(
        5.0,
        "--top-percent P",
        "share of the units in a network, those with the largest effects",
    )
    min_cohens_d: float | None = _option(
        None,
        "--min-cohens-d D",
        "networks of units above this absolute d that survive --alpha, in place of --top-percent",
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
    n_control_draws: int = _option(20, "--n-control-draws", "of each --control")
    alpha: float = shared(GroupOptions, "alpha")
    seed: int = shared(GroupOptions, "random_state")
    allow_circular: bool = shared(Selection, "allow_circular")
    n_boot: int = 200
    n_perm: int = 1000
    n_draws: int = 20

    def __post_init__(self) -> None:
        unknown = [name for name in self.controls if name not in CONTROLS]
        if unknown or self.n_control_draws < 2:
            raise UsageError(
                f"controls: found {self.n_control_draws} draws of "
                f"{', '.join(unknown or self.controls) or 'none'}; expected two draws or more of "
                f"{', '.join(CONTROLS)}"
            )
        if not 0 < self.top_percent <= 100:
            raise UsageError(
                f"top_percent: found {self.top_percent:g}, expected above 0 and at most 100"
            )
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha: found {self.alpha:g}, expected between 0 and 1")
        if self.min_cohens_d is not None and not self.min_cohens_d >= 0:
            raise UsageError(f"min_cohens_d: found {self.min_cohens_d:g}, expected 0 or more")

    @property
    def share(self) -> float:
        """Share of the units in a network."""
        return self.top_percent / 100
