"""A model's outline, all that its configuration says, and how fast it would be scanned here."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm2bids.exceptions import ModelError, first_line
from llm2bids.model.checkpoint import model_of, package_of, random_model
from llm2bids.model.device import check_device
from llm2bids.model.generate import generate_batch
from llm2bids.model.hooks import new_values
from llm2bids.model.load import DTYPES, NO_LIMIT, LoadedModel, check_dtype, longest_context
from llm2bids.model.location import EMBEDDED, OFFER, locate_model
from llm2bids.model.sites import SiteTable, outline_sites
from llm2bids.model.units import Site
from llm2bids.paradigm.task import Sampling


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """What a model is before its weights are there."""

    name: str
    label: str
    config: Any = field(repr=False)
    sites: SiteTable = field(repr=False)
    dtype: str  # that it would run in
    n_parameters: int  # numbers in its weights, tied ones once
    n_vocabulary: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in `dtype`."""
        return self.n_parameters * DTYPES[self.dtype].itemsize

    @property
    def max_length(self) -> int:
        """Longest context in tokens."""
        return longest_context(self.config)


def outline(
    name_or_path: str | Path = EMBEDDED,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | Path | None = None,
) -> Outline:
    """Work out what a model records, from its configuration alone.

    Of a hub model only ``config.json`` is fetched, of a GGUF file only the header is read, a folder
    needs no weights, and an adapter changes nothing.
    """
    chosen = check_dtype(dtype)
    location = locate_model(
        str(name_or_path), revision, trust_remote_code, dtype=None, adapter=adapter
    )
    try:
        config = location.read_config()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {location.source}: its configuration cannot be read ({first_line(error)}); "
            "expected a folder with config.json, a .gguf file, or the name of a hub model; "
            f"{OFFER}"
        ) from error
    how = {"attn_implementation": "eager"}  # the fast ones look at values of the mask
    try:
        with torch.device("meta"):
            model = model_of(config, location.source, trust_remote_code=trust_remote_code, **how)
    except (ValueError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(
            f"model {name_or_path}: no causal language model can be made of its configuration "
            f"({first_line(error)}); {package_of(error) or 'expected one that transformers reads'}"
        ) from error
    model.eval()
    if hasattr(model, "set_experts_implementation"):  # the usual one looks at values
        model.set_experts_implementation("batched_mm")
    # A warning about padding would look at values. Some configurations refuse None where their own
    # default is a number (modernbert-decoder), so it is set past their check.
    vars(model.config)["pad_token_id"] = None
    stored = getattr(config, "dtype", None) or torch.float32
    return Outline(
        name=location.name,
        label=location.label,
        config=config,
        sites=outline_sites(model, location.name),
        dtype=str(stored if isinstance(chosen, str) else chosen).removeprefix("torch."),
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        n_vocabulary=int(model.get_input_embeddings().num_embeddings),
    )


# Bytes of weights up to which the whole model is timed.
_WHOLE = 1_000_000_000

# Numbers of layers that are timed of a larger model; time is linear in the layers.
_SHALLOW = (1, 3)

_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that one batch takes."""

    first: float  # until the first token is chosen: reading the prompts
    step: float  # each token after it, recorded
    n_layers: tuple[int, ...]  # numbers of layers that were timed
    uses_processor: bool  # generation needs the processor, so that writing competes with it

    def seconds(self, n_tokens: int) -> float:
        """Seconds for a batch of prompts that take `n_tokens` tokens each."""
        return self.first + (n_tokens - 1) * self.step


def measure_pace(
    outline: Outline,
    sites: Sequence[Site],
    *,
    n_prompts: int,
    prompt_tokens: int,
    sampling: Sampling,
    device: str = "auto",
) -> Pace:
    """Time a batch on this machine, without the model's weights, on prompts of random tokens.

    Of the whole model: measured up to `_WHOLE` bytes of weights, else continued from `_SHALLOW`
    numbers of layers.
    """
    where = check_device(device)
    depth = int(outline.config.get_text_config().num_hidden_layers)
    depths: tuple[int, ...] = (depth,)
    if outline.weight_bytes > _WHOLE and depth > _SHALLOW[-1]:
        depths = _SHALLOW
    timed = [
        _time_layers(outline, sites, n, where, n_prompts, prompt_tokens, sampling) for n in depths
    ]
    if len(timed) == 1:
        first, step = timed[0]
    else:
        share = (depth - depths[0]) / (depths[1] - depths[0])
        first, step = (low + share * max(high - low, 0.0) for low, high in zip(*timed, strict=True))
    return Pace(first=first, step=step, n_layers=depths, uses_processor=where.type == "cpu")


def _time_layers(
    outline: Outline,
    sites: Sequence[Site],
    n_layers: int,
    device: torch.device,
    n_prompts: int,
    prompt_tokens: int,
    sampling: Sampling,
) -> tuple[float, float]:
    """Time the first token and a later one on a model of so many layers."""
    config = _shallow(outline.config, n_layers)
    model = random_model(config, seed=0, dtype=DTYPES[outline.dtype], trust_remote_code=True)
    model.to(device).eval().requires_grad_(False)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    kept = [site for site in sites if site.layer is None or site.layer < n_layers]
    loaded = LoadedModel(
        model=model, tokenizer=range(outline.n_vocabulary), name=outline.name,
        label=outline.label, source="", revision=None, weights_sha256="0" * 64,
        dtype=outline.dtype, device=str(device), max_length=NO_LIMIT,
        trust_remote_code=True, random_weights=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    prompts = rng.integers(outline.n_vocabulary, size=(n_prompts, prompt_tokens)).tolist()
    width = sum(site.width for site in kept)
    values = new_values((n_prompts, _STEPS, width), str(device))

    def once(n_steps: int) -> float:
        uniforms = rng.random((n_prompts, n_steps + 1))
        began = time.perf_counter()
        out = values[:, :n_steps]
        generate_batch(loaded, prompts, kept, sampling=sampling, uniforms=uniforms, out=out)
        return time.perf_counter() - began

    once(1)  # what is set up once
    short, long = (min(once(n) for _ in range(2)) for n in (1, _STEPS))
    step = max(long - short, 0.0) / (_STEPS - 1)
    return max(short - step, 0.0), step


def _shallow(config: Any, n_layers: int) -> Any:
    """Copy a configuration with fewer layers."""
    shallow = copy.deepcopy(config)
    text = shallow.get_text_config()
    text.num_hidden_layers = n_layers
    for name in ("layer_types", "mlp_layer_types", "layers_block_type"):
        listed = getattr(text, name, None)
        if isinstance(listed, list):
            setattr(text, name, listed[:n_layers])
    return shallow
