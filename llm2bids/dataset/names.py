"""Where each file of a dataset lies."""

from dataclasses import replace
from pathlib import PurePosixPath

from llm2bids.dataset.path import Entities, build_path
from llm2bids.dataset.settings import DERIVATIVE

IMAGE = ".nii.gz"
"""Extension of all images but the series, which may be without compression."""


class RunNames:
    """Places of the files of one run, relative to the raw dataset.

    Parameters
    ----------
    participant_label, task : str
        BIDS labels.
    run : int or None
        Run index.
    space : str
        Label of the space.
    extension : {".nii.gz", ".nii"}
        Of the series.

    Examples
    --------
    >>> str(RunNames("01", "rest", None, space="Tiny").events)
    'sub-01/func/sub-01_task-rest_events.tsv'
    """

    def __init__(
        self,
        participant_label: str,
        task: str,
        run: int | None,
        *,
        space: str,
        extension: str = IMAGE,
    ) -> None:
        self._raw = Entities(
            sub=participant_label,
            task=task,
            run=run,
            datatype="func",
            suffix="bold",
            extension=extension,
        )
        self._space = space

    @property
    def bold(self) -> PurePosixPath:
        """The raw series; a run is there if and only if this file is."""
        return build_path(self._raw)

    @property
    def bold_json(self) -> PurePosixPath:
        """Sidecar of the raw series."""
        return build_path(replace(self._raw, extension=".json"))

    @property
    def events(self) -> PurePosixPath:
        """Events."""
        return build_path(replace(self._raw, suffix="events", extension=".tsv"))

    @property
    def stim(self) -> PurePosixPath:
        """Stimulus series."""
        return build_path(replace(self._raw, suffix="stim", extension=".tsv.gz"))

    @property
    def preproc(self) -> PurePosixPath:
        """The series in the derivative."""
        return self._derived(space=self._space, desc="preproc")

    @property
    def mask(self) -> PurePosixPath:
        """Mask of the units in the derivative."""
        return self._derived(space=self._space, desc="brain", suffix="mask", extension=IMAGE)

    @property
    def boldref(self) -> PurePosixPath:
        """Mean over time in the derivative."""
        return self._derived(space=self._space, suffix="boldref", extension=IMAGE)

    @property
    def confounds(self) -> PurePosixPath:
        """Confounds in the derivative."""
        return self._derived(desc="confounds", suffix="timeseries", extension=".tsv")

    @property
    def transcript(self) -> PurePosixPath:
        """Every generated token, in the derivative."""
        return self._derived(desc="transcript", suffix="tokens", extension=".tsv")

    def all(self) -> tuple[PurePosixPath, ...]:
        """List every file of the run, the raw series last."""
        derived = (self.preproc, self.mask, self.boldref, self.confounds, self.transcript)
        return (
            self.bold_json,
            self.events,
            self.stim,
            *derived,
            *(sidecar(place) for place in derived),
            self.bold,
        )

    def _derived(self, **changes: str) -> PurePosixPath:
        return DERIVATIVE / build_path(replace(self._raw, **changes))  # type: ignore[arg-type]


def raw_anatomy(participant_label: str) -> PurePosixPath:
    """Place a participant's anatomy in the raw dataset.

    Examples
    --------
    >>> str(raw_anatomy("01"))
    'sub-01/anat/sub-01_T1w.nii.gz'
    """
    return build_path(
        Entities(sub=participant_label, datatype="anat", suffix="T1w", extension=IMAGE)
    )


def derived_anatomy(participant_label: str, space: str, *, desc: str, suffix: str) -> PurePosixPath:
    """Place an anatomical image of a participant in the derivative.

    Examples
    --------
    >>> derived_anatomy("01", "Tiny", desc="brain", suffix="mask").name
    'sub-01_space-Tiny_desc-brain_mask.nii.gz'
    """
    return DERIVATIVE / build_path(
        Entities(
            sub=participant_label,
            datatype="anat",
            space=space,
            desc=desc,
            suffix=suffix,
            extension=IMAGE,
        )
    )


def template_file(
    space: str,
    suffix: str,
    *,
    extension: str = IMAGE,
    datatype: str | None = "anat",
    desc: str | None = None,
    label: str | None = None,
    atlas: str | None = None,
    stat: str | None = None,
) -> PurePosixPath:
    """Place a file of the template.

    Examples
    --------
    >>> template_file("Tiny", "mask", label="GM").name
    'tpl-Tiny_label-GM_mask.nii.gz'
    """
    return DERIVATIVE / build_path(
        Entities(
            tpl=space,
            datatype=datatype,
            suffix=suffix,
            extension=extension,
            desc=desc,
            label=label,
            atlas=atlas,
            stat=stat,
        )
    )


def sidecar(place: PurePosixPath) -> PurePosixPath:
    """Place the sidecar of a file.

    Examples
    --------
    >>> str(sidecar(PurePosixPath("a_bold.nii.gz")))
    'a_bold.json'
    """
    return place.with_name(place.name.partition(".")[0] + ".json")
