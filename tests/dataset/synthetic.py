"""A small dataset of synthetic recordings: two participants, two tasks, 24 trials a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from llm2bids.dataset.write import DatasetWriter
from llm2bids.model.units import Site
from llm2bids.paradigm.design import RunDesign, Trial
from llm2bids.paradigm.task import Paradigm, Prompt, Sampling, Task
from llm2bids.recording.calibration import Calibration
from llm2bids.recording.record import Recording
from llm2bids.space.arrange import build_space
from llm2bids.space.space import Space

T_R = 0.25
TOKENS_PER_PROMPT = 5
PER_BLOCK = 8

SITES = (
    Site(name="model.embed", layer=None, role="model.embed", width=11),
    Site(name="model.layers.0.self_attn.q", layer=0, role="self_attn.q", width=24, n_heads=4,
         head_size=6),
    Site(name="model.layers.0.mlp", layer=0, role="mlp", width=37),
    Site(name="model.layers.1.self_attn.q", layer=1, role="self_attn.q", width=24, n_heads=4,
         head_size=6),
    Site(name="model.layers.1.mlp", layer=1, role="mlp", width=37),
)  # fmt: skip
N_UNITS = sum(site.width for site in SITES)
CONSTANT_UNIT = 3
ON_UNIT = 40

PARADIGM = Paradigm(
    name="tiny",
    description="Off, on, off.",
    order="off_on_off",
    tasks=(
        Task(label="fossils", conditions=(("fossils", "fossils"),)),
        Task(label="votes", conditions=(("votes", "votes"),)),
    ),
    baseline="everyday",
    prompts_per_block=PER_BLOCK,
    tokens_per_prompt=TOKENS_PER_PROMPT,
    source='order = "off_on_off"\n',
)

SETTINGS = {
    "model": "tiny",
    "revision": None,
    "weights_sha256": "ab" * 32,
    "sites": [site.name for site in SITES],
    "paradigm": "tiny",
    "seed": 7,
    "t_r": T_R,
    "dtype": "float32",
    "device": "cpu",
    "volume_dtype": "int16",
    "keep_first": False,
    "hrf_model": None,
    "compress": True,
}


def make_banks() -> dict[str, list[Prompt]]:
    return {
        bank: [
            Prompt(
                prompt_id=f"{bank}{i:03d}",
                condition=bank,
                topic="a topic",
                text=f'Say "{bank}"\n{i}',
            )
            for i in range(60)
        ]
        for bank in ("everyday", "fossils", "votes")
    }


def make_space() -> Space:
    return build_space(SITES, label="Tiny", model_name="tiny", weights_sha256="ab" * 32)


def make_calibration() -> Calibration:
    rng = np.random.default_rng(1)
    sd = rng.uniform(0.5, 2, N_UNITS).astype(np.float32)
    sd[CONSTANT_UNIT] = 0
    return Calibration(
        mean=rng.normal(0, 3, N_UNITS).astype(np.float32),
        sd=sd,
        prompt_ids=("everyday059",),
        n_tokens=40,
    )


def make_design(
    participant: int = 1, task: str = "fossils", run: int | None = None, **changes
) -> RunDesign:
    banks = make_banks()
    number = participant * 10 + len(task)
    trials = tuple(
        Trial(
            prompt=banks[task if block == 1 else "everyday"][block * PER_BLOCK + i + participant],
            trial_type=task if block == 1 else None,
            block=block,
        )
        for block in range(3)
        for i in range(PER_BLOCK)
    )
    design = RunDesign(
        participant_label=f"{participant:02d}",
        task=task,
        run=run,
        trials=trials,
        tokens_per_prompt=TOKENS_PER_PROMPT,
        context="fresh",
        sampling=Sampling(),
        seed=number,
    )
    return replace(design, **changes)


def make_recording(design: RunDesign, *, seed: int = 0) -> Recording:
    rng = np.random.default_rng([seed, design.seed])
    calibration = make_calibration()
    n_volumes = design.n_volumes
    values = rng.normal(0, 1, (n_volumes, N_UNITS)).astype(np.float32)
    on = np.repeat([t.trial_type is not None for t in design.trials], design.tokens_per_prompt)
    values[on, ON_UNIT] += 3
    values = values * calibration.scale + calibration.mean
    values[:, CONSTANT_UNIT] = calibration.mean[CONSTANT_UNIT]
    return Recording(
        design=design,
        sites=SITES,
        values=values.astype(np.float32),
        tokens=make_tokens(design, rng, on),
        provenance={"dtype": "float32", "device": "cpu",
                    "source": "/home/ada/tiny-model", "seconds": float(rng.uniform()),
                    "end_of_text_suppressed": True, "versions": {"torch": "2"}},
    )  # fmt: skip


def make_tokens(design: RunDesign, rng: np.random.Generator, on: np.ndarray) -> pd.DataFrame:
    """Tokens with a first one that has no volume; surprisal follows the block, as it may."""
    rows = []
    for index, trial in enumerate(design.trials):
        for position in range(design.tokens_per_prompt + 1):
            volume = index * design.tokens_per_prompt + position - 1
            rows.append(
                {
                    "volume": pd.NA if position == 0 else volume,
                    "trial": index,
                    "block": trial.block,
                    "trial_type": pd.NA if trial.trial_type is None else trial.trial_type,
                    "prompt_id": trial.prompt.prompt_id,
                    "position": position,
                    "token_id": int(rng.integers(0, 300)),
                    "token": ["a", " b", "\n", "\t", '"', "n/a", "é", "\\", ""][rng.integers(9)],
                    "surprisal": float(rng.gamma(2) + 6 * (trial.trial_type is not None)),
                    "entropy": float(rng.gamma(3)),
                    "prompt_tokens": 9 + index % 3,
                }
            )
    table = pd.DataFrame(rows)
    return table.astype({"volume": "Int64", "trial_type": "string"})


def create(path: Path, **changes) -> DatasetWriter:
    settings = {**SETTINGS, **changes}
    rng = np.random.default_rng(2)
    return DatasetWriter.create(
        path,
        space=make_space(),
        calibration=make_calibration(),
        paradigm=PARADIGM,
        settings=settings,
        weight_norms=rng.uniform(0.1, 3, N_UNITS).astype(np.float32),
        banks=make_banks(),
    )


def write_dataset(path: Path, *, n_participants: int = 2, **changes) -> Path:
    with create(path, **changes) as writer:
        for participant in range(1, n_participants + 1):
            for task in ("fossils", "votes"):
                writer.write_run(make_recording(make_design(participant, task)), t_r=T_R)
            writer.finish_participant(f"{participant:02d}")
    return path
