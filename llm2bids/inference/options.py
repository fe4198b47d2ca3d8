"""Options of the first level, the group and the findings, checked once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from llm2bids.exceptions import InferenceError, UsageError
from llm2bids.options import none_or_name, option, shared

UnitOfAnalysis = Literal["prompt", "token"]
Source = Literal["transcript", "events"]
"""The table that says what was shown, where the two differ."""

HeightControl = Literal["fpr", "fdr", "bonferroni"]
HEIGHT_CONTROLS: tuple[HeightControl, ...] = get_args(HeightControl)

_SELECTION = "selection and machine"
_FIRST = "participant level (nilearn's FirstLevelModel)"
_GROUP = "group level (nilearn's SecondLevelModel)"
_TOKEN = "with --unit-of-analysis token"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is analysed."""

    participant_label: Sequence[str] | None = option(
        None,
        "--participant-label --participant_label",
        "only these, with or without sub-",
        group=_SELECTION,
        shown="all",
        nargs="+",
        metavar="LABEL",
    )
    task: Sequence[str] | None = option(
        None,
        "--task",
        "only these tasks, with or without task-",
        group=_SELECTION,
        shown="all",
        nargs="+",
        metavar="LABEL",
    )
    allow_circular: bool = option(
        False,
        "--allow-circular",
        "go on where participants share prompts, and say so on the result; at both levels where "
        "the arrangement was learned from prompts of these runs, with a warning, which sidecars "
        "say too (CircularityCaution)",
        group=_SELECTION,
    )


@dataclass(frozen=True, kw_only=True)
class ParticipantSelection(Selection):
    """What the participant level analyses; the group level takes the same runs and units."""

    mask_img: Path | str | None = option(
        None,
        "--mask",
        "model only these voxels",
        group=_FIRST,
        shown="all units",
        type=Path,
        metavar="IMG",
    )
    session_label: Sequence[str] | None = option(
        None,
        "--session-label --session_label",
        "only these sessions, with or without ses-",
        group=_SELECTION,
        shown="all",
        nargs="+",
        metavar="LABEL",
    )
    bids_filter_file: Path | str | None = option(
        None,
        "--bids-filter-file",
        "JSON file of pybids' filters, as fMRIPrep takes it: only the runs that match, e.g. "
        '{"bold": {"task": "pathology", "run": [1, 2]}}; the group level takes the same runs',
        group=_SELECTION,
        type=Path,
        metavar="FILE",
    )
    cluster: Path | str | None = option(
        None,
        "--cluster",
        "let workers of a queue (SLURM, PBS, SGE, LSF, ...) fit participants, at most --n-cpus at "
        "a time where that is above 1: a YAML file of dask-jobqueue, or 'local' for workers here; "
        "needs llm2bids[cluster]",
        group=_SELECTION,
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class Processors:
    """How many processors an analysis may take."""

    n_cpus: int = option(1, "--n-cpus", "processes", group=_SELECTION)

    def __post_init__(self) -> None:
        if self.n_cpus < 1:
            raise UsageError(f"n_cpus={self.n_cpus}: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How much memory an analysis may take, and where it holds the rest."""

    mem_gb: float | None = option(
        None,
        "--mem-gb",
        "memory for all fits together; what takes more is fitted in blocks of units, and the "
        "prompts' images (4 bytes for each prompt and unit) are held in a scratch file",
        group=_SELECTION,
        shown="1 for each process",
        metavar="GB",
    )
    work_dir: Path | str | None = option(
        None,
        "--work-dir -w",
        "folder for scratch files",
        group=_SELECTION,
        shown="the system's",
        type=Path,
        metavar="DIR",
    )

    def __post_init__(self) -> None:
        if self.mem_gb is not None and self.mem_gb <= 0:
            raise UsageError(f"mem_gb={self.mem_gb}: expected above 0")

    @property
    def folder(self) -> Path | None:
        """Folder for scratch files."""
        return None if self.work_dir is None else Path(self.work_dir)


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """What an observation of the first level is, and how it is modelled, in nilearn's names.

    >>> AnalysisOptions().noise, AnalysisOptions(unit_of_analysis="token").noise
    ('ols', 'ar1')
    """

    unit_of_analysis: UnitOfAnalysis = option(
        "prompt",
        "--unit-of-analysis",
        "what an observation is: a prompt (the mean image of its tokens) or a token",
        group=_FIRST,
    )
    contrasts: Mapping[str, str] | Sequence[str] | None = option(
        None,
        "--contrast",
        "expressions over trial types, in place of each trial type against off (participant "
        "level), or besides the usual ones and over those of any task (group level), e.g. "
        "'paleontology - archeology'; repeatable; in Python also by label",
        group=_SELECTION,
        shown="each trial type",
        action="append",
        metavar="EXPRESSION",
    )
    noise_model: str | None = option(
        None,
        "--noise-model",
        "ols, ar1, arN",
        group=_FIRST,
        shown="ols, for tokens and --model ar1",
        metavar="MODEL",
    )
    hrf_model: str | None = option(
        None,
        "--hrf-model",
        f"{_TOKEN}; a language model has no lag",
        group=_FIRST,
        parse=none_or_name,
        choices=("none", "spm", "glover"),
    )
    drift_model: str | None = option(
        None, "--drift-model", _TOKEN, group=_FIRST, choices=("cosine", "polynomial")
    )
    high_pass: float | None = option(
        None, "--high-pass", f"{_TOKEN}; alone it means cosine drifts", group=_FIRST, metavar="HZ"
    )
    drift_order: int = option(1, "--drift-order", _TOKEN, group=_FIRST)
    confounds: Sequence[str] = option(
        (),
        "--confounds",
        "strategies of load_confounds (position, first_token, length, surprisal, entropy, "
        "global_signal) or columns of the confounds table; their means in models of prompts",
        group=_FIRST,
        nargs="+",
        metavar="NAME",
    )
    smoothing_fwhm: float | None = option(
        None, "--smoothing", "smoothing_fwhm; mixes neighbouring units", group=_FIRST, metavar="MM"
    )
    use: Source | None = option(
        None,
        "--use",
        "which table says what was shown, where a run's events.tsv and its transcript differ",
        group=_FIRST,
        shown="such runs are refused",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "confounds", tuple(self.confounds))
        if self.unit_of_analysis not in ("prompt", "token"):
            raise UsageError(
                f"unit_of_analysis: found {self.unit_of_analysis!r}, expected 'prompt' or 'token'"
            )
        if self.use not in (None, "transcript", "events"):
            raise UsageError(f"use: found {self.use!r}, expected 'transcript' or 'events'")
        if self.noise_model is not None:
            checked_noise_model(self.noise_model)
        if self.unit_of_analysis == "prompt":
            for name in ("hrf_model", "drift_model", "high_pass"):
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"{name}: found {getattr(self, name)!r} with one image per prompt, where "
                        "it has no meaning; leave it out or take unit_of_analysis 'token'"
                    )
        checked_smoothing(self.smoothing_fwhm)
        if self.high_pass is not None and self.high_pass <= 0:
            raise UsageError(f"high_pass: found {self.high_pass}, expected above 0 Hz")

    @property
    def noise(self) -> str:
        """Noise model with the default filled in."""
        if self.noise_model is not None:
            return self.noise_model
        return "ols" if self.unit_of_analysis == "prompt" else "ar1"

    def parameters(self) -> dict[str, object]:
        """Say the options in nilearn's names, for a sidecar."""
        parameters: dict[str, object] = {
            "noise_model": self.noise,
            "hrf_model": self.hrf_model,
            "drift_model": self.drift_model,
            "signal_scaling": False,
            "smoothing_fwhm": self.smoothing_fwhm,
            "confounds": list(self.confounds),
        }
        if self.use is not None:
            parameters["use"] = self.use
        if self.drift_model is not None or self.high_pass is not None:
            cosine = self.drift_model in (None, "cosine")
            parameters["drift_model"] = self.drift_model or "cosine"
            parameters |= (
                {"high_pass": self.high_pass or 0.01}
                if cosine
                else {"drift_order": self.drift_order}
            )
        return parameters

    @classmethod
    def read(cls, sidecar: Mapping[str, Any], path: Path) -> "AnalysisOptions":
        """Read the options of a first-level map from its sidecar, without the contrasts."""
        try:
            parameters = {
                name: value
                for name, value in sidecar["ModelParameters"].items()
                if name != "signal_scaling"
            }
            return cls(unit_of_analysis=sidecar["UnitOfAnalysis"], **parameters)
        except (KeyError, TypeError, AttributeError) as error:
            raise InferenceError(
                f"{path}: the model that llm2bids writes is missing or damaged ({error}); run the "
                "participant level again"
            ) from None

    def describe(self) -> str:
        """Name the model in one sentence.

        >>> AnalysisOptions().describe()
        'one image per prompt, noise model ols'
        >>> AnalysisOptions(confounds=("length",), smoothing_fwhm=4.0).describe()
        'one image per prompt, noise model ols, confounds length, smoothing 4 mm'
        """
        parts = ["one image per prompt" if self.unit_of_analysis == "prompt" else "every token"]
        parts.append(f"noise model {self.noise}")
        if self.hrf_model is not None:
            parts.append(f"haemodynamic response {self.hrf_model}")
        parameters = self.parameters()
        if parameters["drift_model"] is not None:
            detail = next(
                f"{name.replace('_', ' ')} {parameters[name]}"
                for name in ("high_pass", "drift_order")
                if name in parameters
            )
            parts.append(f"{parameters['drift_model']} drifts ({detail})")
        if self.confounds:
            parts.append(f"confounds {' '.join(self.confounds)}")
        if self.smoothing_fwhm is not None:
            parts.append(f"smoothing {self.smoothing_fwhm:g} mm")
        if self.use is not None:
            parts.append(f"conditions of the {self.use}")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """How group maps are thresholded and permuted, in nilearn's names."""

    contrasts: Mapping[str, str] | Sequence[str] | None = shared(AnalysisOptions, "contrasts")
    alpha: float = option(0.05, "--alpha", "error rate", group=_GROUP, metavar="P")
    height_control: HeightControl = option(
        "fdr",
        "--height-control",
        "what alpha controls in thresholded maps and clusters",
        group=_GROUP,
    )
    cluster_threshold: int = option(
        10, "--cluster-threshold", "smallest cluster that stays", group=_GROUP, metavar="VOXELS"
    )
    min_distance: float = option(
        8.0, "--min-distance", "between the peaks of a cluster", group=_GROUP, metavar="MM"
    )
    n_perm: int = option(
        0,
        "--n-perm",
        "sign flips of non_parametric_inference, 10000 or more for a paper; 0 leaves it out",
        group=_GROUP,
    )
    two_sided_test: bool = option(
        True, "--one-sided", "permutation test of increases alone", group=_GROUP
    )
    threshold: float | None = option(
        None, "--threshold", "cluster-forming p value, with --n-perm", group=_GROUP, metavar="P"
    )
    tfce: bool = option(
        False, "--tfce", "threshold-free cluster enhancement, with --n-perm", group=_GROUP
    )
    true_discovery_threshold: float | None = option(
        None,
        "--true-discovery-threshold",
        "bound the share of active units in clusters above this z (cluster_level_inference)",
        group=_GROUP,
        metavar="Z",
    )
    pooled_n_perm: int = option(
        0,
        "--pooled-n-perm",
        "permutations of the pooled prompt test; 0 leaves it out",
        group=_GROUP,
    )
    random_state: int = option(
        0, "--random-state", "of permutations and draws", group=_GROUP, metavar="SEED"
    )

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha: found {self.alpha}, expected between 0 and 1")
        if self.height_control not in HEIGHT_CONTROLS:
            raise UsageError(
                f"height_control: found {self.height_control!r}, expected one of "
                f"{', '.join(HEIGHT_CONTROLS)}"
            )
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UsageError(
                f"threshold: found {self.threshold}, expected a p value between 0 and 1 "
                "(not a z value)"
            )
        if min(self.n_perm, self.pooled_n_perm, self.cluster_threshold) < 0:
            raise UsageError(
                f"n_perm={self.n_perm}, pooled_n_perm={self.pooled_n_perm}, "
                f"cluster_threshold={self.cluster_threshold}: expected 0 or more"
            )
        if (self.tfce or self.threshold is not None) and not self.n_perm:
            raise UsageError("tfce and threshold need a permutation test; give n_perm, e.g. 10000")


def checked_smoothing(smoothing_fwhm: float | None) -> float | None:
    """Return the width of a smoothing kernel if it is one."""
    if smoothing_fwhm is not None and smoothing_fwhm <= 0:
        raise UsageError(f"smoothing_fwhm: found {smoothing_fwhm}, expected above 0 mm")
    return smoothing_fwhm


def checked_noise_model(noise_model: str) -> str:
    """Return the name of a noise model if nilearn knows it."""
    if not re.fullmatch(r"ols|ar[1-9]\d*", noise_model):
        raise InferenceError(
            f"noise_model: found {noise_model!r}, expected 'ols' or 'arN' such as 'ar1'"
        )
    return noise_model
