"""Simulated runs, written and timed: what writing a scan takes, without a model."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm2bids.dataset.write import DatasetWriter
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.calibration import Calibration
from llm2bids.recording.draw import Scan
from llm2bids.recording.record import Recording
from llm2bids.recording.tokens import token_table
from llm2bids.space.space import Space

# Values that are simulated at most: a few seconds of encoding and compressing.
_VALUES = 48_000_000

_LONGER = 4  # how many times as long the last simulated run is


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What writing a dataset takes."""

    template_bytes: int  # that are there before the first run
    template_seconds: float  # processor time
    run_seconds: float
    volume_seconds: float


def measure_writing(space: Space, scan: Scan, settings: Mapping[str, Any]) -> Writing:
    """Write a template and two runs."""
    design = _short(scan.designs[0], space.n_units)
    longer = replace(design, run=2, tokens_per_prompt=_LONGER * design.tokens_per_prompt)
    zeros = np.zeros(space.n_units, dtype=np.float32)
    calibration = Calibration(
        mean=zeros,
        sd=zeros + 1,
        prompt_ids=tuple(prompt.prompt_id for prompt in scan.calibration),
        n_tokens=len(scan.calibration) * scan.paradigm.tokens_per_prompt,
    )
    norms = np.random.default_rng(0).standard_normal(space.n_units, dtype=np.float32) + 8
    with tempfile.TemporaryDirectory(prefix="llm2bids-plan-") as folder:
        root = Path(folder) / "dataset"
        began = time.process_time()
        what: dict[str, Any] = {"space": space, "calibration": calibration, "settings": settings}
        what |= {"paradigm": scan.paradigm, "weight_norms": norms}
        with DatasetWriter.create(root, **what) as writer:
            template_seconds = time.process_time() - began
            template_bytes = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
            recordings = [simulate_recording(space, run) for run in (design, longer)]
            seconds = []
            for recording in recordings:
                began = time.process_time()
                writer.write_run(recording, t_r=scan.t_r)
                seconds.append(time.process_time() - began)
    volume_seconds = max(seconds[1] - seconds[0], 0.0) / (longer.n_volumes - design.n_volumes)
    return Writing(
        template_bytes=template_bytes,
        template_seconds=template_seconds,
        run_seconds=max(seconds[0] - volume_seconds * design.n_volumes, 0.0),
        volume_seconds=volume_seconds,
    )


def _short(design: RunDesign, n_units: int) -> RunDesign:
    """Cut a design so that the simulated runs stay small."""
    n_tokens = min(2, design.tokens_per_prompt)
    n_trials = max(2, _VALUES // ((1 + _LONGER) * n_tokens * n_units))
    return replace(design, run=1, trials=design.trials[:n_trials], tokens_per_prompt=n_tokens)


def simulate_recording(space: Space, design: RunDesign) -> Recording:
    """Make up the recording of a run."""
    from llm2bids.model.generate import ChosenTokens

    rng = np.random.default_rng(design.seed)
    n_trials, n_volumes = len(design.trials), design.tokens_per_prompt
    shape = n_trials, n_volumes + 1
    answers = ChosenTokens(
        token_ids=rng.integers(50_000, size=shape),
        surprisal=rng.gamma(2.0, 2.0, size=shape),
        entropy=rng.gamma(3.0, 1.0, size=shape),
    )
    words = [trial.prompt.text.split() or ["a"] for trial in design.trials]
    texts = [f" {text[n % len(text)]}" for text in words for n in range(shape[1])]
    tokens = token_table(design, answers, texts, [len(text) for text in words], first=1)
    values = rng.standard_normal((n_trials * n_volumes, space.n_units), dtype=np.float32)
    return Recording(design=design, sites=space.sites, values=values, tokens=tokens)
