"""A recorded dataset with known truth: each task moves units of its own."""

import numpy as np
import pandas as pd

from llm2bids.dataset.write import DatasetWriter
from llm2bids.model.units import Site
from llm2bids.paradigm.design import RunDesign, Trial
from llm2bids.paradigm.task import Paradigm, Prompt, Sampling, Task
from llm2bids.recording.calibration import Calibration
from llm2bids.recording.record import Recording
from llm2bids.space.arrange import build_space

T_R, TOKENS, PER_BLOCK = 0.25, 3, 4
TASKS = ("tea", "cocoa", "milk")
SITES = (
    Site(name="model.layers.0.attn", layer=0, role="attn", width=24, n_heads=4, head_size=6),
    Site(name="model.layers.0.mlp", layer=0, role="mlp", width=37),
    Site(name="model.layers.1.mlp", layer=1, role="mlp", width=37),
)
N_UNITS = sum(site.width for site in SITES)
PLANTED = {"tea": 5, "cocoa": 30, "milk": 70}
"""The unit that responds to each task."""


def calibration():
    rng = np.random.default_rng(1)
    return Calibration(
        mean=rng.normal(0, 3, N_UNITS).astype(np.float32),
        sd=rng.uniform(0.5, 2, N_UNITS).astype(np.float32),
        prompt_ids=("rest0",),
        n_tokens=40,
    )


def design(participant, task, run=None):
    trials = tuple(
        Trial(
            prompt=Prompt(
                prompt_id=f"{task if block == 1 else 'off'}-{participant}-{task}-{run}-{block}-{i}",
                condition=task if block == 1 else "off",
                topic="a",
                text="b",
            ),
            trial_type=task if block == 1 else None,
            block=block,
        )
        for block in range(3)
        for i in range(PER_BLOCK)
    )
    return RunDesign(
        participant_label=f"{participant:02d}",
        task=task,
        run=run,
        trials=trials,
        tokens_per_prompt=TOKENS,
        context="fresh",
        sampling=Sampling(),
        seed=participant * 100 + len(task) * 10 + (run or 0),
    )


def recording(shown, *, effect):
    rng = np.random.default_rng(shown.seed)
    on = np.repeat([trial.trial_type is not None for trial in shown.trials], TOKENS)
    z = rng.normal(0, 1, (on.size, N_UNITS))
    z[on, PLANTED[shown.task]] += effect
    gain = calibration()
    return Recording(
        design=shown,
        sites=SITES,
        values=(z * gain.scale + gain.mean).astype(np.float32),
        tokens=tokens(shown, rng),
        provenance={"dtype": "float32", "device": "cpu", "seconds": 1.0,
                    "end_of_text_suppressed": True, "versions": {"torch": "2"}},
    )  # fmt: skip


def tokens(shown, rng):
    rows = []
    for index, trial in enumerate(shown.trials):
        for position in range(TOKENS + 1):
            volume = index * TOKENS + position - 1
            rows.append(
                {
                    "volume": pd.NA if position == 0 else volume,
                    "trial": index,
                    "block": trial.block,
                    "trial_type": pd.NA if trial.trial_type is None else trial.trial_type,
                    "prompt_id": trial.prompt.prompt_id,
                    "position": position,
                    "token_id": 7,
                    "token": "a",
                    "surprisal": float(rng.gamma(2)),
                    "entropy": float(rng.gamma(3)),
                    "prompt_tokens": 5 + index % 3,
                }
            )
    return pd.DataFrame(rows).astype({"volume": "Int64", "trial_type": "string"})


def write_dataset(path, *, n_participants=4, n_runs=1, effect=4.0, without=(), seed_model="ab"):
    banks = {
        name: [Prompt(prompt_id=f"{name}0", condition=name, topic="a", text="b")]
        for name in (*TASKS, "off")
    }
    paradigm = Paradigm(
        name="drinks",
        description="Off, on, off.",
        order="off_on_off",
        tasks=tuple(Task(label=task, conditions=((task, task),)) for task in TASKS),
        baseline="off",
        prompts_per_block=PER_BLOCK,
        tokens_per_prompt=TOKENS,
        n_runs=n_runs,
        source='order = "off_on_off"\n',
    )
    settings = {
        "model": "drinks", "revision": None, "weights_sha256": seed_model * 32,
        "sites": [site.name for site in SITES], "paradigm": "drinks", "seed": 7, "t_r": T_R,
        "dtype": "float32", "device": "cpu", "volume_dtype": "int16", "keep_first": False,
        "hrf_model": None, "compress": True,
    }  # fmt: skip
    space = build_space(SITES, label="Drinks", model_name="drinks", weights_sha256=seed_model * 32)
    with DatasetWriter.create(
        path, space=space, calibration=calibration(), paradigm=paradigm, settings=settings,
        weight_norms=np.ones(N_UNITS, dtype=np.float32), banks=banks,
    ) as writer:  # fmt: skip
        for participant in range(1, n_participants + 1):
            for task in TASKS:
                for run in [None] if n_runs == 1 else range(1, n_runs + 1):
                    if (participant, task) not in without:
                        shown = design(participant, task, run)
                        writer.write_run(recording(shown, effect=effect), t_r=T_R)
            writer.finish_participant(f"{participant:02d}")
    return path
