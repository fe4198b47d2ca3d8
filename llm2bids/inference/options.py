"""Options of the first level, the group and a BIDS Stats Model, checked once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from llm2bids.exceptions import InferenceError, UsageError
from llm2bids.options import Options, arguments, none_or_name, option, shared

UnitOfAnalysis = Literal["prompt", "token"]

# The table that says what was shown, where the two differ.
Source = Literal["transcript", "events"]

HeightControl = Literal["fpr", "fdr", "bonferroni"]
HEIGHT_CONTROLS: tuple[HeightControl, ...] = get_args(HeightControl)

_TOKEN = "with --unit-of-analysis token"

_general = partial(option, group="selection and machine")
_labels = partial(_general, None, shown="all", nargs="+")
_first_level = partial(option, group="participant level (nilearn's FirstLevelModel)")
_group_level = partial(option, group="group level (nilearn's SecondLevelModel)")
_of_model = partial(option, group="a BIDS Stats Model in place of ours")


@dataclass(frozen=True, kw_only=True)
class Selection(Options):
    """What is analysed."""

    participant_label: Sequence[str] | None = _labels(
        "--participant-label --participant_label LABEL", "only these, with or without sub-"
    )
    task: Sequence[str] | None = _labels("--task LABEL", "only these tasks, with or without task-")
    allow_circular: bool = _general(
        False,
        "--allow-circular",
        "go on where participants share prompts, and say so on the result; at both levels where "
        "the arrangement was learned from prompts of these runs, with a warning, which sidecars "
        "say too (CircularityCaution)",
    )


@dataclass(frozen=True, kw_only=True)
class ParticipantSelection(Selection):
    """What the participant level analyses; the group level takes the same runs and units."""

    mask_img: Path | str | None = _first_level(
        None, "--mask IMG", "model only these voxels", shown="all units", type=Path
    )
    session_label: Sequence[str] | None = _labels(
        "--session-label --session_label LABEL", "only these sessions, with or without ses-"
    )
    bids_filter_file: Path | str | None = _general(
        None,
        "--bids-filter-file FILE",
        "JSON file of pybids' filters, as fMRIPrep takes it: only the runs that match, e.g. "
        '{"bold": {"task": "pathology", "run": [1, 2]}}; the group level takes the same runs',
        type=Path,
    )
    cluster: Path | str | None = _general(
        None,
        "--cluster FILE",
        "let workers of a queue (SLURM, PBS, SGE, LSF, ...) fit participants, at most --n-cpus at "
        "a time where that is above 1: a YAML file of dask-jobqueue, or 'local' for workers here; "
        "needs llm2bids[cluster]",
    )


@dataclass(frozen=True, kw_only=True)
class Processors(Options):
    """How many processors an analysis may take."""

    n_cpus: int = _general(1, "--n-cpus", "processes", least=1)


@dataclass(frozen=True, kw_only=True)
class Memory(Options):
    """How much memory an analysis may take, and where it holds the rest."""

    mem_gb: float | None = _general(
        None,
        "--mem-gb GB",
        "memory for all fits together; what takes more is fitted in blocks of units, and the "
        "prompts' images (4 bytes for each prompt and unit) are held in a scratch file",
        shown="1 for each process",
        above=0,
    )
    work_dir: Path | str | None = _general(
        None, "--work-dir -w DIR", "folder for scratch files", shown="the system's", type=Path
    )

    @property
    def folder(self) -> Path | None:
        """Folder for scratch files."""
        return None if self.work_dir is None else Path(self.work_dir)


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions(Options):
    """What an observation of the first level is, and how it is modelled, in nilearn's names.

    >>> AnalysisOptions().noise, AnalysisOptions(unit_of_analysis="token").noise
    ('ols', 'ar1')
    """

    unit_of_analysis: UnitOfAnalysis = _first_level(
        "prompt",
        "--unit-of-analysis",
        "what an observation is: a prompt (the mean image of its tokens) or a token",
    )
    contrasts: Mapping[str, str] | Sequence[str] | None = _general(
        None,
        "--contrast EXPRESSION",
        "expressions over trial types, in place of each trial type against off (participant "
        "level), or besides the usual ones and over those of any task (group level), e.g. "
        "'paleontology - archeology'; repeatable; in Python also by label",
        shown="each trial type",
        action="append",
    )
    noise_model: str | None = _first_level(
        None, "--noise-model MODEL", "ols, ar1, arN", shown="ols, for tokens and --model ar1"
    )
    hrf_model: str | None = _first_level(
        None,
        "--hrf-model none|spm|glover",  # or what else nilearn knows: it refuses others by name
        f"{_TOKEN}; a language model has no lag",
        parse=none_or_name,
    )
    drift_model: str | None = _first_level(None, "--drift-model cosine|polynomial", _TOKEN)
    high_pass: float | None = _first_level(
        None, "--high-pass HZ", f"{_TOKEN}; alone it means cosine drifts", above=0
    )
    drift_order: int = _first_level(1, "--drift-order", _TOKEN, least=0)
    confounds: Sequence[str] = _first_level(
        (),
        "--confounds NAME",
        "strategies of load_confounds (position, first_token, length, surprisal, entropy, "
        "global_signal) or columns of the confounds table; their means in models of prompts",
        nargs="+",
    )
    smoothing_fwhm: float | None = _first_level(
        None, "--smoothing MM", "smoothing_fwhm; mixes neighbouring units", above=0
    )
    use: Source | None = _first_level(
        None,
        "--use",
        "which table says what was shown, where a run's events.tsv and its transcript differ",
        shown="such runs are refused",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_model is not None:
            check_noise_model(self.noise_model)
        if self.unit_of_analysis == "prompt":
            names = ("hrf_model", "drift_model", "high_pass", "drift_order")
            self._refuse(*names, where="one image per prompt", other="--unit-of-analysis token")
        elif self.drift_model == "polynomial":
            self._refuse("high_pass", where="polynomial drifts", other="--drift-model cosine")
        else:
            where, other = "no polynomial drifts", "--drift-model polynomial"
            self._refuse("drift_order", where=where, other=other)

    def _refuse(self, *names: str, where: str, other: str) -> None:
        """Refuse options that have no effect, where they are not their defaults."""
        for name, argument in arguments(type(self)).items():
            if name in names and getattr(self, name) != argument.default:
                raise UsageError(
                    f"{name} ({argument.flag}): found {getattr(self, name)!r} with {where}, where "
                    f"it has no meaning; leave it out or take {other}"
                )

    @property
    def noise(self) -> str:
        """Noise model with the default filled in."""
        return self.noise_model or ("ols" if self.unit_of_analysis == "prompt" else "ar1")

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
            parameters["drift_model"] = self.drift_model or "cosine"
            if parameters["drift_model"] == "cosine":
                parameters["high_pass"] = self.high_pass or 0.01
            else:
                parameters["drift_order"] = self.drift_order
        return parameters

    @classmethod
    def read(cls, sidecar: Mapping[str, Any], path: Path) -> "AnalysisOptions":
        """Read the options of a first-level map from its sidecar, without the contrasts."""
        try:
            written = sidecar["ModelParameters"].items()
            parameters = {name: value for name, value in written if name != "signal_scaling"}
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
        kind = "one image per prompt" if self.unit_of_analysis == "prompt" else "every token"
        model = self.parameters()
        name = "high_pass" if "high_pass" in model else "drift_order"
        parts = {
            "noise model": self.noise,
            "haemodynamic response": self.hrf_model,
            f"{model['drift_model']} drifts": name in model
            and f"({name.replace('_', ' ')} {model[name]})",
            "confounds": " ".join(self.confounds),
            "smoothing": self.smoothing_fwhm and f"{self.smoothing_fwhm:g} mm",
            "conditions of the": self.use,
        }
        return ", ".join([kind, *(f"{what} {value}" for what, value in parts.items() if value)])


@dataclass(frozen=True, kw_only=True)
class GroupOptions(Options):
    """How group maps are thresholded and permuted, in nilearn's names."""

    contrasts: Mapping[str, str] | Sequence[str] | None = shared(AnalysisOptions, "contrasts")
    alpha: float = _group_level(0.05, "--alpha P", "error rate", above=0, below=1)
    height_control: HeightControl = _group_level(
        "fdr", "--height-control", "what alpha controls in thresholded maps and clusters"
    )
    cluster_threshold: int = _group_level(
        10, "--cluster-threshold VOXELS", "smallest cluster that stays", least=0
    )
    min_distance: float = _group_level(
        8.0, "--min-distance MM", "between the peaks of a cluster", least=0
    )
    n_perm: int = _group_level(
        0,
        "--n-perm",
        "sign flips of non_parametric_inference, 10000 or more for a paper; 0 leaves it out",
        least=0,
    )
    two_sided_test: bool = _group_level(True, "--one-sided", "permutation test of increases alone")
    threshold: float | None = _group_level(
        None, "--threshold P", "cluster-forming p value, with --n-perm", above=0
    )
    tfce: bool = _group_level(False, "--tfce", "threshold-free cluster enhancement, with --n-perm")
    true_discovery_threshold: float | None = _group_level(
        None,
        "--true-discovery-threshold Z",
        "bound the share of active units in clusters above this z (cluster_level_inference)",
        least=0,
    )
    pooled_n_perm: int = _group_level(
        0, "--pooled-n-perm", "permutations of the pooled prompt test; 0 leaves it out", least=0
    )
    random_state: int = _group_level(
        0, "--random-state SEED", "of permutations and draws", least=0, most=2**32 - 1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and self.threshold >= 1:
            raise UsageError(
                f"threshold: found {self.threshold}, expected a p value between 0 and 1 "
                "(not a z value)"
            )
        of_permutations = self.tfce or self.threshold is not None or not self.two_sided_test
        if of_permutations and not self.n_perm:
            raise UsageError(
                "tfce, threshold and one-sided tests need a permutation test; give n_perm, e.g. "
                "10000"
            )


@dataclass(frozen=True, kw_only=True)
class StatsModelOptions(Options):
    """What a BIDS Stats Model is run on, beside what its file says."""

    model: Path | str | None = _of_model(
        None,
        "--model FILE",
        "run this BIDS Stats Model (NAME_smdl.json) up to the level, as FitLins does; models of a "
        "dataset are in BIDS_DIR/code/models",
        shown="none",
        type=Path,
    )
    derivatives: Sequence[Path | str] = _of_model(
        (),
        "--derivatives DIR",
        "with --model: the derivative with the preprocessed series, of any pipeline",
        shown="BIDS_DIR/derivatives/llm2bids, or the only one there",
        nargs="+",
        type=Path,
    )
    space: str | None = _of_model(
        None,
        "--space LABEL",
        "with --model: the series' space",
        shown="the model's, or the only one there",
    )
    drop_missing: bool = _of_model(
        False,
        "--drop-missing",
        "with --model: leave out variables of X that a run lacks; refused otherwise",
    )
    participant_label: Sequence[str] | None = shared(Selection, "participant_label")
    task: Sequence[str] | None = shared(Selection, "task")
    session_label: Sequence[str] | None = shared(ParticipantSelection, "session_label")
    bids_filter_file: Path | str | None = shared(ParticipantSelection, "bids_filter_file")
    noise_model: str | None = shared(AnalysisOptions, "noise_model")
    smoothing_fwhm: float | None = shared(AnalysisOptions, "smoothing_fwhm")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise_model(self.noise)

    @property
    def noise(self) -> str:
        """Noise model of a run, nilearn's and FitLins' AR(1) where nothing is said."""
        return self.noise_model or "ar1"


def check_noise_model(noise_model: str) -> None:
    """Refuse a noise model that nilearn does not know."""
    if not re.fullmatch(r"ols|ar[1-9]\d*", noise_model):
        raise InferenceError(
            f"noise_model: found {noise_model!r}, expected 'ols' or 'arN' such as 'ar1'"
        )
