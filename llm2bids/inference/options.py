"""Options of the first level and of the group, checked once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llm2bids.exceptions import UsageError
from llm2bids.inference.first_level import checked_noise_model
from llm2bids.inference.threshold import HEIGHT_CONTROLS, HeightControl
from llm2bids.inference.trials import Source

UnitOfAnalysis = Literal["prompt", "token"]


@dataclass(frozen=True, kw_only=True)
class FirstLevelOptions:
    """What an observation is, and how it is modelled; nilearn's names.

    Parameters
    ----------
    unit_of_analysis : {"prompt", "token"}
        One observation per prompt (the mean of its tokens; the recommended default), or per token.
    contrasts : mapping of str to str, sequence of str, or None
        ``{label: expression}`` or expressions over trial types, e.g. ``"tea - coffee"``; None for
        each trial type against the off prompts.
    noise_model : str or None
        ``"ols"`` or ``"arN"``; None is "ols" for prompts and nilearn's "ar1" for tokens.
    hrf_model : str or None
        Token level only; None (no convolution) matches a model.
    drift_model : {"cosine", "polynomial"} or None
        Token level only.
    high_pass : float, optional
        Token level only; hertz; given alone it means cosine drifts.
    drift_order : int
        Token level only; order of polynomial drifts.
    confounds : sequence of str
        Strategies of `llm2bids.inference.confounds.load_confounds` without ``prefill``, or columns
        of the run's confounds table; averaged over each prompt at the prompt level.
    smoothing_fwhm : float, optional
        Millimetres. Smoothing mixes neighbouring units.
    use : {"transcript", "events"}, optional
        Which table is right where a run's events and its transcript differ; refused without.

    Raises
    ------
    UsageError
        If an option does not exist or does not fit the unit of analysis.

    Examples
    --------
    >>> FirstLevelOptions().noise
    'ols'
    >>> FirstLevelOptions(unit_of_analysis="token").noise
    'ar1'
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
        """Say the options in nilearn's names, for a sidecar.

        Returns
        -------
        dict
            Name to value; what does not apply is left out.
        """
        found: dict[str, object] = {
            "noise_model": self.noise,
            "hrf_model": self.hrf_model,
            "drift_model": self.drift_model,
            "signal_scaling": False,
            "smoothing_fwhm": self.smoothing_fwhm,
            "confounds": list(self.confounds),
        }
        if self.use is not None:
            found["use"] = self.use
        if self.drift_model is not None or self.high_pass is not None:
            cosine = self.drift_model in (None, "cosine")
            found["drift_model"] = self.drift_model or "cosine"
            found |= (
                {"high_pass": self.high_pass or 0.01}
                if cosine
                else {"drift_order": self.drift_order}
            )
        return found


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """How group maps are thresholded and permuted, in nilearn's names.

    Parameters
    ----------
    alpha : float
        Error rate of thresholds.
    height_control : {"fdr", "bonferroni", "fpr"}
        What `alpha` controls in the thresholded map and the cluster table.
    cluster_threshold : int
        Smallest cluster that stays and is listed, in voxels.
    min_distance : float
        Smallest distance between listed peaks, in millimetres.
    n_perm : int
        Sign flips of ``non_parametric_inference``; 0 leaves it out.
    two_sided_test : bool
        Both directions in the permutation test.
    threshold : float, optional
        Cluster-forming p value of the permutation test.
    tfce : bool
        Threshold-free cluster enhancement in the permutation test.
    true_discovery_threshold : float, optional
        Cluster-forming z of ``cluster_level_inference``; left out without.
    pooled_n_perm : int
        Permutations of the pooled prompt test; 0 leaves it out.
    random_state : int
        Seed of permutations.
    n_jobs : int
        Processes of the permutation test.

    Raises
    ------
    UsageError
        If a value is not usable.
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
