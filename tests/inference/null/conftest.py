"""Null runs with known truth: independent noise, or noise that tokens of a prompt share."""

import numpy as np
import pandas as pd
import pytest

from llm2bids.inference.null.source import NullRun, NullSource
from llm2bids.inference.null.units import draw_units
from llm2bids.model.units import Site
from llm2bids.space.arrange import build_space

SITES = (
    Site(name="model.layers.0.attn", layer=0, role="attn", width=130),
    Site(name="model.layers.0.mlp", layer=0, role="mlp", width=190),
    Site(name="model.layers.1.mlp", layer=1, role="mlp", width=190),
)
PER_BLOCK, TOKENS, T_R = 8, 6, 0.25


def noise(rng, n_units, *, prompt_sd, phi):
    """One run: off, sham, off, each of eight prompts of six tokens."""
    n_prompts = 3 * PER_BLOCK
    z = rng.standard_normal((n_prompts, TOKENS, n_units))
    for token in range(1, TOKENS):
        z[:, token] = phi * z[:, token - 1] + np.sqrt(1 - phi**2) * z[:, token]
    z += prompt_sd * rng.standard_normal((n_prompts, 1, n_units))
    return z.reshape(n_prompts * TOKENS, n_units).astype(np.float32)


def null_source(*, n_runs, prompt_sd, phi=0.0, seed=0, n_units=400, shift=0.0):
    space = build_space(SITES, label="Sim", model_name="sim", weights_sha256="ab" * 32)
    draw = draw_units(space, n_units, seed=seed)
    on = np.repeat([False, True, False], PER_BLOCK)
    trials = np.repeat(np.arange(on.size), TOKENS)
    events = pd.DataFrame(
        {
            "onset": np.flatnonzero(on) * TOKENS * T_R,
            "duration": TOKENS * T_R,
            "trial_type": "sham",
        }
    )

    def runs():
        rng = np.random.default_rng(seed)
        for index in range(n_runs):
            values = noise(rng, draw.kept.size, prompt_sd=prompt_sd, phi=phi)
            values[on[trials]] += shift
            yield NullRun(
                participant_label=f"{index:02d}", task="null", values=values, trials=trials, on=on,
                events=events, t_r=T_R,
                prompt_ids=tuple(f"{index}-{trial}" for trial in range(on.size)),
            )  # fmt: skip

    return NullSource(
        n_runs=n_runs,
        participants=tuple(f"{index:02d}" for index in range(n_runs)),
        draw=draw,
        runs=runs,
        about={"model": "sim", "weights_sha256": "ab" * 32, "prompts_on": 8, "prompts_off": 16,
               "tokens_per_prompt": TOKENS, "source": "simulation"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def simulate():
    return null_source
