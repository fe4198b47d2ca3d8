"""Checking files against one another: the template with the series, and the files of each run."""

import gzip
import io
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from llm2bids.dataset.layout import Run, RunNames, sidecar, template_file
from llm2bids.dataset.read import Dataset
from llm2bids.dataset.settings import is_dataset
from llm2bids.dataset.transcript import stim_series
from llm2bids.exceptions import Llm2bidsError, SpaceError
from llm2bids.space.grid import open_image
from llm2bids.space.header import FINGERPRINT_DIGITS, read_fingerprint
from llm2bids.store.checksums import FOLDER
from llm2bids.store.commit import HIDDEN
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json


class Fault(NamedTuple):
    """Something in a dataset that is not as it was written."""

    file: PurePosixPath
    message: str


@dataclass(kw_only=True)
class Check:
    """What a check of a dataset has found."""

    path: Path
    n_files: int = 0
    n_runs: int = 0
    _messages: dict[PurePosixPath, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, file: PurePosixPath, text: str) -> None:
        """Add a fault; what is said of a file already is said once."""
        if text not in self._messages[file]:
            self._messages[file].append(text)

    @contextmanager
    def noting(self, file: PurePosixPath | None = None) -> Iterator[None]:
        """Add what is refused as a fault, as `note` does."""
        try:
            yield
        except Llm2bidsError as error:
            self.note(error, file)

    def note(self, error: Llm2bidsError, file: PurePosixPath | None = None) -> None:
        """Add an error as a fault, of this file or of that which its message begins with."""
        path = Path(str(error).partition(": ")[0])
        inside = path.is_relative_to(self.path)
        named = path.relative_to(self.path).as_posix() if inside else "."
        self.add(file or PurePosixPath(named), str(error))

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All faults, sorted by file."""
        return tuple(Fault(file, text) for file in self.files for text in self._messages[file])

    @property
    def files(self) -> tuple[PurePosixPath, ...]:
        """Files with a fault, sorted."""
        return tuple(sorted(self._messages))

    def describe(self) -> str:
        """Say what was found, file by file, and what to do."""
        lines = [
            f"{self.path}: {self.n_files} checksums and {self.n_runs} runs checked, "
            f"{len(self.files)} files with faults"
        ]
        for file in self.files:
            texts = [f"    {text}" for text in self._messages[file]]
            lines += [f"  {file}", *texts, f"    -> {self._advice(file)}"]
        return "\n".join(lines)

    def _advice(self, file: PurePosixPath) -> str:
        root = self.path
        if not is_dataset(root):
            return "call `llm2bids analyze` as before: results are written anew"
        if file == FOLDER:
            return f"make them with `llm2bids check {root} --accept .`"
        if file == HIDDEN:
            return "call the command again that was killed: it goes on where it stopped"
        keep = f"if the change is yours, keep it with `llm2bids check {root} --accept {file}`"
        if any(part.startswith("sub-") for part in file.parts[:-1]):
            return (
                "restore it from a copy, or call `llm2bids record` as before with --overwrite: the "
                f"runs with faults are recorded anew; {keep}"
            )
        return f"restore it from a copy, or record the dataset again into another folder; {keep}"


def check_files(check: Check, dataset: Dataset) -> None:
    """Compare the files of a dataset with one another."""
    series = _series_fingerprint(dataset)
    _check_template(check, dataset, series)
    for run in dataset.runs:
        _check_run(check, dataset, run, series)


def _series_fingerprint(dataset: Dataset) -> str:
    """Give the fingerprint that series have to carry: the dataset's, or that of most of them."""
    counts: Counter[str] = Counter()
    for run in dataset.runs:
        with suppress(SpaceError):
            if (carried := read_fingerprint(open_image(run.bold).header)) is not None:
                counts[carried] += 1
    calibrated = dataset.fingerprint
    common = counts.most_common(1)[0][0] if counts else ""
    return calibrated if calibrated.startswith(common) else common


def _check_template(check: Check, dataset: Dataset, series: str) -> None:
    """Compare the template's fingerprints with one another and with the series'."""
    label = dataset.space.label
    if series != dataset.fingerprint:
        for stat in ("mean", "std"):
            check.add(
                template_file(label, "boldmap", datatype="func", stat=stat),
                "another calibration: with stat-mean and stat-std as they are the fingerprint is "
                f"{dataset.fingerprint[:FINGERPRINT_DIGITS]}, the series were scaled with that of "
                f"{series}",
            )
    known = dataset.settings.get("weights_sha256")
    if known is not None and known != dataset.space.weights_sha256:
        check.add(
            template_file(label, "space", extension=".json", datatype=None),
            f"weights {dataset.space.weights_sha256[:12]}..., the settings have {known[:12]}...",
        )
    fingerprint = dataset.space.fingerprint()
    for path in data_files(dataset.derivative, f"tpl-{label}/**/*.nii.gz"):
        file = PurePosixPath(path.relative_to(dataset.path).as_posix())
        if not (dataset.path / sidecar(file)).is_file():
            check.add(sidecar(file), "is missing")
        _check_image(check, dataset, file, sidecar(file), fingerprint)


def _check_image(
    check: Check, dataset: Dataset, file: PurePosixPath, json_file: PurePosixPath, expected: str
) -> None:
    """Compare the fingerprints of an image and its sidecar with the dataset's; grid and weights."""
    wanted = expected[:FINGERPRINT_DIGITS]
    if (dataset.path / file).is_file():
        with check.noting(file):
            carried = read_fingerprint(open_image(dataset.path / file).header)
            if carried == wanted:
                dataset.space.check_grid(dataset.path / file)
            else:
                text = "an image of another space or calibration: its header has the fingerprint"
                check.add(file, f"{text} {carried}, the dataset {wanted}")
    if (dataset.path / json_file).is_file():
        with check.noting(json_file):
            metadata = read_json(dataset.path / json_file)
            written = str(metadata.get("SpaceFingerprint"))
            if not written.startswith(expected):
                shown = written[:FINGERPRINT_DIGITS]
                check.add(json_file, f"SpaceFingerprint is {shown}, the dataset has {wanted}")
            weights = metadata.get("WeightsSHA256", dataset.space.weights_sha256)
            if weights != dataset.space.weights_sha256:
                text = f"WeightsSHA256 is {str(weights)[:12]}..., not that of the space"
                check.add(json_file, text)


def _check_run(check: Check, dataset: Dataset, run: Run, series: str) -> None:
    """Compare the files of a run with one another and with the space."""
    names = run.names
    files = names.all(with_hrf=bool(dataset.settings.get("hrf_series")))
    missing = {file for file in files if not (dataset.path / file).is_file()}
    for file in missing:
        check.add(file, "is missing")
    for file in (names.bold, names.preproc, names.boldref):
        metadata = names.bold_json if file == names.bold else sidecar(file)
        _check_image(check, dataset, file, metadata, series)
    _check_image(check, dataset, names.mask, sidecar(names.mask), dataset.space.fingerprint())
    if not missing & {names.events, names.stim, names.transcript, names.bold_json}:
        with check.noting():
            _check_tables(check, dataset, run)


def _check_tables(check: Check, dataset: Dataset, run: Run) -> None:
    """Compare transcript, series, stimulus series and events; what cannot be read is refused."""
    names, t_r = run.names, dataset.t_r(run)
    transcript = dataset.transcript(run)
    recorded = transcript[transcript["volume"].notna()]
    volumes = recorded["volume"].to_numpy(dtype=np.int64)
    is_story = dataset.paradigm.order == "story"
    n_volumes = len(volumes)
    if is_story:
        n_volumes = int(dataset.sidecar(run).get("NumberOfVolumes", 0))
        _check_series(check, dataset, names, n_volumes, t_r)
        if not ((volumes >= 0) & (volumes < n_volumes)).all():
            check.add(names.transcript, f"its volumes are not within 0 to {n_volumes - 1}")
            return
    elif not np.array_equal(np.sort(volumes), np.arange(n_volumes)):
        check.add(names.transcript, "its volumes are not 0, 1, 2, ... with each once")
        return
    else:
        _check_series(check, dataset, names, n_volumes, t_r)
        if not np.allclose(recorded["onset"].to_numpy(dtype=float), volumes * t_r, atol=1e-6):
            text = f"its onsets are not volume times RepetitionTime, {t_r} s"
            check.add(names.transcript, text)
    _check_stim(check, dataset, names, transcript, n_volumes)
    events = dataset.events(run)
    if is_story:
        difference = _compare_words(events, transcript)
    else:
        difference = _compare_events(events, recorded, t_r)
    if difference is not None:
        check.add(names.events, difference)


def _compare_words(events: pd.DataFrame, transcript: pd.DataFrame) -> str | None:
    """Compare the words of a story with the tokens of its transcript."""
    onset = transcript["onset"].dropna().to_numpy(dtype=float)
    strange = onset[~np.isin(onset.round(4), events["onset"].to_numpy(dtype=float).round(4))]
    return (
        f"no word at {strange[0]:g} s, where the transcript has a token" if strange.size else None
    )


def _check_series(
    check: Check, dataset: Dataset, names: RunNames, n_volumes: int, t_r: float
) -> None:
    """Compare a series and its sidecar with the number of volumes and the repetition time."""
    metadata = read_json(dataset.path / names.bold_json)
    if metadata.get("NumberOfVolumes", n_volumes) != n_volumes:
        text = f"NumberOfVolumes is {metadata['NumberOfVolumes']}, the transcript has {n_volumes}"
        check.add(names.bold_json, text)
    try:
        image = open_image(dataset.path / names.bold)
    except SpaceError:
        return  # said already
    zooms = image.header.get_zooms()
    if image.n_volumes != n_volumes:
        text = f"shape {image.shape}, the transcript has {n_volumes} volumes"
        check.add(names.bold, text)
    elif len(zooms) > 3 and not np.isclose(float(zooms[3]), t_r):
        check.add(names.bold, f"pixdim[4] is {zooms[3]}, RepetitionTime is {t_r}")


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
    rows = zip(events[list(expected)].to_numpy(), expected.to_numpy(), strict=True)
    for row, ((*times, kind), (*wanted, wanted_kind)) in enumerate(rows, 1):
        for name, written, due in zip(("onset", "duration"), times, wanted, strict=True):
            if abs(written - due) > 1e-6:
                return (
                    f"row {row}: {name} {written:g} s, the tokens of the transcript say {due:g} s "
                    f"({(written - due) / t_r:+g} volumes)"
                )
        if str(kind) != str(wanted_kind):
            return f"row {row}: trial_type {kind}, the transcript has {wanted_kind}"
    return None


def _check_stim(
    check: Check, dataset: Dataset, names: RunNames, transcript: pd.DataFrame, n_volumes: int
) -> None:
    """Compare prompt, position and token of the stimulus series with the transcript."""

    def whole(data: bytes) -> pd.DataFrame:
        table = pd.read_csv(io.BytesIO(gzip.decompress(data)), sep="\t", header=None)
        return table.iloc[:, :3]

    try:
        written = whole((dataset.path / names.stim).read_bytes())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        check.add(names.stim, f"not a readable series ({error})")
        return
    if not written.equals(whole(stim_series(transcript, n_volumes))):
        check.add(names.stim, "its tokens are not those of the transcript")
