"""Checking the template: the calibration belongs to the series, and the space to both."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from llm2bids.dataset.layout import sidecar, template_file
from llm2bids.dataset.read import Dataset
from llm2bids.exceptions import Llm2bidsError, SpaceError
from llm2bids.space.grid import open_image
from llm2bids.space.header import FINGERPRINT_DIGITS, read_fingerprint
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """What the headers and sidecars of a dataset have to carry."""

    space: str  # of the space: templates and masks
    calibrated: str  # of space and calibration as the template has them
    series: str  # what series carry: `calibrated`, unless most of them agree on another one


def fingerprints(dataset: Dataset) -> Fingerprints:
    """Find out what the headers and sidecars of a dataset have to carry."""
    calibrated = dataset.fingerprint
    common = _common_fingerprint(dataset)
    agree = common in (None, calibrated[:FINGERPRINT_DIGITS])
    return Fingerprints(
        space=dataset.space.fingerprint(),
        calibrated=calibrated,
        series=calibrated if agree else str(common),
    )


def check_template(dataset: Dataset, expected: Fingerprints) -> Iterator[tuple[PurePosixPath, str]]:
    """Compare the template's fingerprints with one another and with the series'."""
    label = dataset.space.label
    if expected.series != expected.calibrated:
        for stat in ("mean", "std"):
            yield (
                template_file(label, "boldmap", datatype="func", stat=stat),
                "another calibration: with stat-mean and stat-std as they are the fingerprint is "
                f"{expected.calibrated[:FINGERPRINT_DIGITS]}, the series were scaled with that of "
                f"{expected.series}",
            )
    known = dataset.settings.get("weights_sha256")
    if known is not None and known != dataset.space.weights_sha256:
        yield (
            template_file(label, "space", extension=".json", datatype=None),
            f"weights {dataset.space.weights_sha256[:12]}..., the settings have {known[:12]}...",
        )
    for path in data_files(dataset.derivative, f"tpl-{label}/**/*.nii.gz"):
        file = PurePosixPath(path.relative_to(dataset.path).as_posix())
        if not (dataset.path / sidecar(file)).is_file():
            yield sidecar(file), "is missing"
        yield from check_image(dataset, file, sidecar(file), expected.space)


def _common_fingerprint(dataset: Dataset) -> str | None:
    """Give the fingerprint that most series carry."""
    counts: Counter[str] = Counter()
    for run in dataset.runs:
        try:
            carried = read_fingerprint(open_image(run.bold).header)
        except SpaceError:
            continue
        if carried is not None:
            counts[carried] += 1
    return counts.most_common(1)[0][0] if counts else None


def check_image(
    dataset: Dataset, file: PurePosixPath, json_file: PurePosixPath, expected: str
) -> Iterator[tuple[PurePosixPath, str]]:
    """Compare the fingerprints of an image and its sidecar with the dataset's; grid and weights."""
    if (dataset.path / file).is_file():
        try:
            carried = read_fingerprint(open_image(dataset.path / file).header)
            if carried == expected[:FINGERPRINT_DIGITS]:
                dataset.space.check_grid(dataset.path / file)
            else:
                text = "an image of another space or calibration: its header has the fingerprint"
                yield file, f"{text} {carried}, the dataset {expected[:FINGERPRINT_DIGITS]}"
        except Llm2bidsError as error:
            yield file, str(error)
    if (dataset.path / json_file).is_file():
        try:
            metadata = read_json(dataset.path / json_file)
        except Llm2bidsError as error:
            yield json_file, str(error)
            return
        written = str(metadata.get("SpaceFingerprint"))
        if not written.startswith(expected):
            shown, wanted = written[:FINGERPRINT_DIGITS], expected[:FINGERPRINT_DIGITS]
            yield json_file, f"SpaceFingerprint is {shown}, the dataset has {wanted}"
        weights = metadata.get("WeightsSHA256", dataset.space.weights_sha256)
        if weights != dataset.space.weights_sha256:
            yield json_file, f"WeightsSHA256 is {str(weights)[:12]}..., not that of the space"
