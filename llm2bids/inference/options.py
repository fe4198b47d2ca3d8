"""Options of the first level and of the group, checked once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm2bids.exceptions import InferenceError, UsageError
from llm2bids.inference.first_level import checked_noise_model
from llm2bids.inference.threshold import HEIGHT_CONTROLS, HeightControl
from llm2bids.inference.trials import Source

UnitOfAnalysis = Literal["prompt", "token"]


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """What an observation of the first level is, and how it is modelled, in nilearn's names.

    `unit_of_analysis`: one observation per prompt (the mean of its tokens), or per token.
    `contrasts`: expressions over trial types, by label or alone; each type against off by default.
    `noise_model`: ``"ols"`` or ``"arN"``; by default "ols" for prompts, nilearn's "ar1" for tokens.
    `hrf_model`, `drift_model`, `high_pass` (hertz; alone it means cosine drifts), `drift_order`:
    of the token level only.
    `confounds`: strategies of `load_confounds` without ``prefill``, or columns of the confounds
    table; averaged over each prompt at the prompt level.
    `smoothing_fwhm`: millimetres; smoothing mixes neighbouring units.
    `use`: which table is right where a run's events and its transcript differ; refused without.

    Examples
    --------
    >>> AnalysisOptions().noise, AnalysisOptions(unit_of_analysis="token").noise
    ('ols', 'ar1')
    """

    unit_of_analysis: UnitOfAnalysis = "prompt"
    contrasts: Mapping[str, str] | Sequence[str] | None = None
    noise_model: str | None = None
    hrf_model: str | None = None
    drift_model: str | None = None
    high_pass: float | None = None
    drift_order: int = 1
    confounds: tuple[str, ...] = ()
    smoothing_fwhm: float | None = None
    use: Source | None = None

    def __post_init__(self) -> None:
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
        if self.smoothing_fwhm is not None and self.smoothing_fwhm <= 0:
            raise UsageError(f"smoothing_fwhm: found {self.smoothing_fwhm}, expected above 0 mm")
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
            parameters["confounds"] = tuple(parameters["confounds"])
            return cls(unit_of_analysis=sidecar["UnitOfAnalysis"], **parameters)
        except (KeyError, TypeError, AttributeError) as error:
            raise InferenceError(
                f"{path}: the model that llm2bids writes is missing or damaged ({error}); run the "
                "participant level again"
            ) from None

    def describe(self) -> str:
        """Name the model in one sentence.

        Examples
        --------
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
    """How group maps are thresholded and permuted, in nilearn's names.

    `alpha`: what `height_control` keeps in the thresholded map and the cluster table.
    `cluster_threshold`: smallest cluster that stays, in voxels; `min_distance` of peaks in mm.
    `n_perm`: sign flips of ``non_parametric_inference`` (0: none), with `two_sided_test`,
    cluster-forming p value `threshold`, and `tfce`.
    `true_discovery_threshold`: cluster-forming z of ``cluster_level_inference``.
    `pooled_n_perm`: permutations of the pooled prompt test (0: none).
    """

    alpha: float = 0.05
    height_control: HeightControl = "fdr"
    cluster_threshold: int = 10
    min_distance: float = 8.0
    n_perm: int = 0
    two_sided_test: bool = True
    threshold: float | None = None
    tfce: bool = False
    true_discovery_threshold: float | None = None
    pooled_n_perm: int = 0
    random_state: int = 0
    n_jobs: int = 1

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
