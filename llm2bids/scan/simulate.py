"""A few simulated runs in a scratch folder: what a dataset weighs, before it is recorded.

Every file of a dataset is written by the code that writes real ones, so that nothing here has to
know which files there are. Values are normal, with the calibration's mean and standard deviation.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm2bids.dataset.write import DatasetWriter
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.calibration import Calibration
from llm2bids.recording.draw import Scan
from llm2bids.recording.record import Recording
from llm2bids.space.space import Space

_VALUES = 48_000_000
"""Values that are simulated at most: a few seconds of encoding and compressing."""

_LONGER = 4
"""How many times as long the last simulated run is."""

_SERIES = "_bold.nii"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the parts of a dataset weigh."""

    template: int  # bytes that are there before the first run
    task: float  # bytes that each adds, without what follows
    participant: float  # bytes that each adds, without what follows
    run: float  # bytes that each adds, without what follows
    row: float  # bytes that each volume adds to the tables of a run
    volume: float  # bytes of one volume of a series
    seconds_template: float
    seconds_run: float
    seconds_volume: float


def weigh(space: Space, scan: Scan, settings: Mapping[str, Any]) -> Weights:
    """Write a few simulated runs and weigh them."""
    design = _short(scan.designs[0], space.n_units)
    longer = _LONGER * design.tokens_per_prompt
    with tempfile.TemporaryDirectory(prefix="llm2bids-plan-") as folder:
        root = Path(folder) / "dataset"
        calibration = Calibration(
            mean=np.zeros(space.n_units, dtype=np.float32),
            sd=np.ones(space.n_units, dtype=np.float32),
            prompt_ids=tuple(prompt.prompt_id for prompt in scan.calibration),
            n_tokens=len(scan.calibration) * scan.paradigm.tokens_per_prompt,
        )
        norms = np.random.default_rng(0).standard_normal(space.n_units, dtype=np.float32) + 8
        began = time.process_time()
        with DatasetWriter.create(
            root, space=space, calibration=calibration, paradigm=scan.paradigm, settings=settings,
            weight_norms=norms,
        ) as writer:  # fmt: skip
            seconds_template = time.process_time() - began
            template, _ = _bytes(root)
            runs = (
                replace(design, participant_label="01", run=1),
                replace(design, participant_label="02", run=1),
                replace(design, participant_label="02", run=2),
                replace(design, participant_label="02", run=3, tokens_per_prompt=longer),
            )
            steps = [_write(writer, root, space, run, scan.t_r) for run in runs]
    others, series, seconds = (list(column) for column in zip(*steps, strict=True))
    added = (_LONGER - 1) * design.n_volumes
    row = max(others[3] - others[2], 0) / added
    per_volume = max(seconds[3] - seconds[2], 0.0) / added
    return Weights(
        template=template,
        task=max(others[0] - others[1], 0),
        participant=max(others[1] - others[2], 0),
        run=others[2] - row * design.n_volumes,
        row=row,
        volume=(series[3] - series[2]) / added,
        seconds_template=seconds_template,
        seconds_run=max(seconds[2] - per_volume * design.n_volumes, 0.0),
        seconds_volume=per_volume,
    )


def _short(design: RunDesign, n_units: int) -> RunDesign:
    """Cut a design so that the simulated runs stay small."""
    n_tokens = min(2, design.tokens_per_prompt)
    n_trials = max(2, _VALUES // ((3 + _LONGER) * n_tokens * n_units))
    return replace(design, trials=design.trials[:n_trials], tokens_per_prompt=n_tokens)


def _write(
    writer: DatasetWriter, root: Path, space: Space, design: RunDesign, t_r: float
) -> tuple[int, int, float]:
    """Write one run; return the bytes that tables and series added, and processor time."""
    others, series = _bytes(root)
    recording = simulate_recording(space, design)
    began = time.process_time()
    writer.write_run(recording, t_r=t_r)
    seconds = time.process_time() - began
    writer.finish_participant(design.participant_label)
    now_others, now_series = _bytes(root)
    return now_others - others, now_series - series, seconds


def simulate_recording(space: Space, design: RunDesign) -> Recording:
    """Make up the recording of a run."""
    rng = np.random.default_rng(design.seed)
    n_trials, n_volumes = len(design.trials), design.tokens_per_prompt
    n_tokens = n_volumes + 1
    position = np.tile(np.arange(n_tokens), n_trials)
    volume = pd.Series(pd.NA, index=range(position.size), dtype="Int64")
    volume[position > 0] = np.arange(n_trials * n_volumes)
    trial = np.repeat(np.arange(n_trials), n_tokens)
    shown = [design.trials[index] for index in trial]
    words = [event.prompt.text.split() or ["a"] for event in shown]
    tokens = pd.DataFrame(
        {
            "volume": volume,
            "trial": trial,
            "block": [event.block for event in shown],
            "trial_type": pd.array([event.trial_type for event in shown], dtype="string"),
            "prompt_id": [event.prompt.prompt_id for event in shown],
            "position": position,
            "token_id": rng.integers(50_000, size=position.size),
            "token": [" " + w[index % len(w)] for w, index in zip(words, position, strict=True)],
            "surprisal": rng.gamma(2.0, 2.0, size=position.size),
            "entropy": rng.gamma(3.0, 1.0, size=position.size),
            "prompt_tokens": [len(w) for w in words],
        }
    )
    values = rng.standard_normal((n_trials * n_volumes, space.n_units), dtype=np.float32)
    return Recording(design=design, sites=space.sites, values=values, tokens=tokens)


def _bytes(root: Path) -> tuple[int, int]:
    """Add up the files of a dataset, those of several names once: all but series, and series."""
    sizes = {}
    for path in root.rglob("*"):
        if path.is_file():
            status = path.stat()
            sizes[status.st_ino] = (_SERIES in path.name and "func" in path.parts, status.st_size)
    series = sum(size for is_series, size in sizes.values() if is_series)
    return sum(size for _, size in sizes.values()) - series, series
