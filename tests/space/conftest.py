"""A small model's sites, and values for its units."""

import numpy as np
import pytest

from llm2bids.model.units import Site
from llm2bids.recording.calibration import Calibration
from llm2bids.space.arrange import build_space

WEIGHTS = "ab" * 32


def small_sites():
    """Give three layers of odd widths, with heads, between an embedding and a norm."""
    sites = [Site(name="model.embed_tokens", layer=None, role="model.embed_tokens", width=13)]
    for layer in range(3):
        stem = f"model.layers.{layer}"
        query = {"width": 30, "n_heads": 5, "head_size": 6}
        key = {"width": 12, "n_heads": 2, "head_size": 6}
        sites += [
            Site(name=stem, layer=layer, role="residual", width=13),
            Site(name=f"{stem}.self_attn.q_proj", layer=layer, role="self_attn.q_proj", **query),
            Site(name=f"{stem}.self_attn.k_proj", layer=layer, role="self_attn.k_proj", **key),
            Site(name=f"{stem}.mlp.act_fn", layer=layer, role="mlp.act_fn", width=37),
        ]
    return [*sites, Site(name="model.norm", layer=None, role="model.norm", width=13)]


@pytest.fixture(scope="session")
def sites():
    return small_sites()


@pytest.fixture(scope="session")
def space(sites):
    return build_space(sites, label="Tiny", model_name="tiny", weights_sha256=WEIGHTS)


@pytest.fixture
def calibration(space):
    rng = np.random.default_rng(7)
    return Calibration(
        mean=rng.normal(-1, 3, space.n_units).astype(np.float32),
        sd=rng.uniform(0.1, 4, space.n_units).astype(np.float32),
        prompt_ids=("c1", "c2"),
        n_tokens=24,
    )


@pytest.fixture
def values(space, calibration):
    """Eleven tokens, around the calibration's mean."""
    rng = np.random.default_rng(8)
    noise = rng.standard_normal((11, space.n_units), dtype=np.float32)
    return calibration.mean + calibration.sd * noise
