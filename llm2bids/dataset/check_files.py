"""Checking files against one another: the template with the series, and the files of each run."""

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from llm2bids.dataset.layout import Run, RunNames, sidecar, template_file
from llm2bids.dataset.read import Dataset
from llm2bids.dataset.transcript import stim_series
from llm2bids.exceptions import Llm2bidsError, SpaceError
from llm2bids.space.grid import open_image
from llm2bids.space.header import FINGERPRINT_DIGITS, read_fingerprint
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json

_Faults = Iterator[tuple[PurePosixPath, str]]


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


def check_template(dataset: Dataset, expected: Fingerprints) -> _Faults:
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
        yield from _check_image(dataset, file, sidecar(file), expected.space)


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


def _check_image(
    dataset: Dataset, file: PurePosixPath, json_file: PurePosixPath, expected: str
) -> _Faults:
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


def check_run_files(dataset: Dataset, run: Run, expected: Fingerprints) -> _Faults:
    """Compare the files of a run with one another and with the space."""
    names = run.names
    files = names.possible() if dataset.settings.get("hrf_series") else names.all()
    missing = [file for file in files if not (dataset.path / file).is_file()]
    for file in missing:
        yield file, "is missing"
    for file in (names.bold, names.preproc, names.boldref, names.mask):
        metadata = names.bold_json if file == names.bold else sidecar(file)
        fingerprint = expected.space if file == names.mask else expected.series
        yield from _check_image(dataset, file, metadata, fingerprint)
    tables = (names.events, names.stim, names.transcript, names.bold_json)
    if not set(tables) & set(missing):
        yield from _check_tables(dataset, run, names)


def _check_tables(dataset: Dataset, run: Run, names: RunNames) -> _Faults:
    try:
        t_r = dataset.t_r(run)
    except Llm2bidsError as error:
        yield names.bold_json, str(error)
        return
    try:
        transcript = dataset.transcript(run)
        recorded = transcript[transcript["volume"].notna()]
        volumes = recorded["volume"].to_numpy(dtype=np.int64)
    except Llm2bidsError as error:
        yield names.transcript, str(error)
        return
    if dataset.paradigm.order == "story":
        yield from _check_story(dataset, run, names, transcript, t_r)
        return
    if not np.array_equal(np.sort(volumes), np.arange(len(volumes))):
        yield names.transcript, "its volumes are not 0, 1, 2, ... with each once"
        return
    yield from _check_series(dataset, names, len(volumes), t_r)
    onset = recorded["onset"].to_numpy(dtype=float)
    if not np.allclose(onset, volumes * t_r, atol=1e-6):
        yield names.transcript, f"its onsets are not volume times RepetitionTime, {t_r} s"
    try:
        events = dataset.events(run)
    except Llm2bidsError as error:
        yield names.events, str(error)
    else:
        if (text := _compare_events(events, recorded, t_r)) is not None:
            yield names.events, text
    if (text := _compare_stim(dataset, names, transcript, len(volumes))) is not None:
        yield names.stim, text


def _check_story(
    dataset: Dataset, run: Run, names: RunNames, transcript: pd.DataFrame, t_r: float
) -> _Faults:
    """Compare the words of a story with its tokens and its clock."""
    n_volumes = int(dataset.sidecar(run).get("NumberOfVolumes", 0))
    yield from _check_series(dataset, names, n_volumes, t_r)
    volume = transcript["volume"].dropna().to_numpy(dtype=np.int64)
    if len(volume) and not (volume.min() >= 0 and volume.max() < n_volumes):
        yield names.transcript, f"its volumes are not within 0 to {n_volumes - 1}"
        return
    try:
        events = dataset.events(run)
    except Llm2bidsError as error:
        yield names.events, str(error)
        return
    onset = transcript["onset"].dropna().to_numpy(dtype=float)
    strange = onset[~np.isin(onset.round(4), events["onset"].to_numpy(dtype=float).round(4))]
    if strange.size:
        yield names.events, f"no word at {strange[0]:g} s, where the transcript has a token"
    if (text := _compare_stim(dataset, names, transcript, n_volumes)) is not None:
        yield names.stim, text


def _check_series(dataset: Dataset, names: RunNames, n_volumes: int, t_r: float) -> _Faults:
    metadata = read_json(dataset.path / names.bold_json)
    if metadata.get("NumberOfVolumes", n_volumes) != n_volumes:
        yield (
            names.bold_json,
            f"NumberOfVolumes is {metadata['NumberOfVolumes']}, the transcript has {n_volumes}",
        )
    try:
        image = open_image(dataset.path / names.bold)
    except SpaceError:
        return  # said already
    zooms = image.header.get_zooms()
    if image.n_volumes != n_volumes:
        yield names.bold, f"shape {image.shape}, the transcript has {n_volumes} volumes"
    elif len(zooms) > 3 and not np.isclose(float(zooms[3]), t_r):
        yield names.bold, f"pixdim[4] is {zooms[3]}, RepetitionTime is {t_r}"


def _compare_events(events: pd.DataFrame, recorded: pd.DataFrame, t_r: float) -> str | None:
    """Compare a run's events with the tokens of its transcript."""
    shown = recorded[recorded["trial_type"].notna()]
    by_trial = shown.groupby("trial", sort=True)
    expected = pd.DataFrame(
        {
            "onset": by_trial["volume"].min().astype(float) * t_r,
            "duration": by_trial["volume"].count().astype(float) * t_r,
            "trial_type": by_trial["trial_type"].first(),
        }
    ).sort_values("onset", ignore_index=True)
    if len(events) != len(expected):
        return f"{len(events)} rows, the transcript has {len(expected)} prompts that are events"
    for row in range(len(expected)):
        for name in ("onset", "duration"):
            written, wanted = float(events[name].iloc[row]), float(expected[name].iloc[row])
            if abs(written - wanted) > 1e-6:
                return (
                    f"row {row + 1}: {name} {written:g} s, the tokens of the transcript say "
                    f"{wanted:g} s ({(written - wanted) / t_r:+g} volumes)"
                )
        if str(events["trial_type"].iloc[row]) != str(expected["trial_type"].iloc[row]):
            return (
                f"row {row + 1}: trial_type {events['trial_type'].iloc[row]}, the transcript has "
                f"{expected['trial_type'].iloc[row]}"
            )
    return None


def _compare_stim(
    dataset: Dataset, names: RunNames, transcript: pd.DataFrame, n_volumes: int
) -> str | None:
    """Compare prompt, position and token of the stimulus series with the transcript."""

    def whole(data: bytes) -> pd.DataFrame:
        table = pd.read_csv(io.BytesIO(gzip.decompress(data)), sep="\t", header=None)
        return table.iloc[:, :3]

    try:
        written = whole((dataset.path / names.stim).read_bytes())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return f"not a readable series ({error})"
    if not written.equals(whole(stim_series(transcript, n_volumes))):
        return "its tokens are not those of the transcript"
    return None
