"""Options of a BIDS Stats Model, beside what its file says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm2bids.inference.options import (
    AnalysisOptions,
    ParticipantSelection,
    Selection,
    checked_noise_model,
    checked_smoothing,
)
from llm2bids.options import option, shared

_MODEL = "a BIDS Stats Model in place of ours"


@dataclass(frozen=True, kw_only=True)
class StatsModelOptions:
    """What a BIDS Stats Model is run on, beside what its file says."""

    model: Path | str | None = option(
        None,
        "--model",
        "run this BIDS Stats Model (NAME_smdl.json) up to the level, as FitLins does; models of a "
        "dataset are in BIDS_DIR/code/models",
        group=_MODEL,
        shown="none",
        type=Path,
        metavar="FILE",
    )
    derivatives: Sequence[Path | str] = option(
        (),
        "--derivatives",
        "with --model: the derivative with the preprocessed series, of any pipeline",
        group=_MODEL,
        shown="BIDS_DIR/derivatives/llm2bids, or the only one there",
        nargs="+",
        type=Path,
        metavar="DIR",
    )
    space: str | None = option(
        None, "--space", "with --model: the series' space", group=_MODEL,
        shown="the model's, or the only one there", metavar="LABEL",
    )  # fmt: skip
    drop_missing: bool = option(
        False,
        "--drop-missing",
        "with --model: leave out variables of X that a run lacks; refused otherwise",
        group=_MODEL,
    )
    participant_label: Sequence[str] | None = shared(Selection, "participant_label")
    task: Sequence[str] | None = shared(Selection, "task")
    session_label: Sequence[str] | None = shared(ParticipantSelection, "session_label")
    bids_filter_file: Path | str | None = shared(ParticipantSelection, "bids_filter_file")
    noise_model: str | None = shared(AnalysisOptions, "noise_model")
    smoothing_fwhm: float | None = shared(AnalysisOptions, "smoothing_fwhm")

    def __post_init__(self) -> None:
        checked_noise_model(self.noise)
        checked_smoothing(self.smoothing_fwhm)

    @property
    def noise(self) -> str:
        """Noise model of a run, nilearn's and FitLins' AR(1) where nothing is said."""
        return "ar1" if self.noise_model is None else self.noise_model
