"""What is recorded is shown, at load, to be what the model computes.

A few prompts of unequal length are generated as `record` does it (cache, padding) and read as
`replay` does it; each finished text then runs alone, without cache, mask or padding. Every site,
the logits and the tokens are compared.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from llm2bids.exceptions import ModelError
from llm2bids.model.device import describe_devices
from llm2bids.model.generate import generate_batch, read_batch
from llm2bids.model.load import Batching, LoadedModel
from llm2bids.model.probe import plain_tokens
from llm2bids.model.sites import RESIDUAL, SiteTable, find_sites
from llm2bids.model.tokenizer import beginning
from llm2bids.model.units import Site, SiteError
from llm2bids.paradigm.task import Sampling

logger = logging.getLogger(__name__)

# Tokens that each prompt generates: one by prefill, the others by decode steps.
N_TOKENS = 4

# Largest differences that count as rounding: share of a site's largest value, and bit.
#
# Measured with SmolLM2-135M: 1e-5 and 3e-5 bit, 0.01 and 0.03 bit, 0.05 and 0.3 bit; with a tiny
# Qwen3-Next, whose steps are summed in another order than its prompts, 2e-4 in float32. Values that
# padding contaminates, or that stand in another prompt's place, are off by 0.1 to 2.
TOLERANCES = {"float32": (5e-3, 0.02), "float16": (3e-2, 0.3), "bfloat16": (0.2, 2.0)}

# What the ways of batching are called.
WORDS: Mapping[Batching, str] = {
    "padded": "prompts of any length in one batch, padded on the left",
    "equal": "only prompts of one length in one batch",
    "single": "prompts one by one",
}


@dataclass(frozen=True, kw_only=True)
class Exactness:
    """How far a model's recorded values are from those of a plain forward pass."""

    batching: Batching
    sites: tuple[Site, ...]
    errors: Mapping[str, float]  # by role: largest difference / the site's largest value
    bits: float  # largest difference of surprisal or entropy
    left_out: Mapping[str, str]  # modules that differ, and by how much
    refused: Mapping[Batching, str]  # ways of batching that change the model's values, and how
    lengths: tuple[tuple[int, ...], ...]
    dtype: str
    device: str

    def metadata(self) -> dict[str, Any]:
        """Everything as JSON can hold it, for ``code/exactness.json``."""
        return {
            "Description": (
                "Prompts generated with a cache and read in a batch, against each finished text "
                "in a plain forward pass alone: largest difference as a share of the largest "
                "value of the site, by role; of surprisal and entropy in bit"
            ),
            "Batching": self.batching,
            "BatchingDescription": WORDS[self.batching],
            "NumberOfSites": len(self.sites),
            "LargestError": {role: float(f"{e:.3g}") for role, e in self.errors.items()},
            "LargestErrorBit": float(f"{self.bits:.3g}"),
            "Tolerance": _tolerance(self.dtype)[0],
            "ToleranceBit": _tolerance(self.dtype)[1],
            "PromptLengths": [list(lengths) for lengths in self.lengths],
            "TokensPerPrompt": N_TOKENS,
            "LeftOut": self.left_out,
            "RouterProbabilities": {s.name: s.scores.function for s in self.sites if s.scores},
            "RefusedBatching": self.refused,
            "dtype": self.dtype,
            "device": self.device,
        }

    def summary(self) -> str:
        """Say it in one line."""
        largest = max(self.errors.values(), default=0.0)
        text = (
            f"{len(self.sites)} sites and the logits are those of a plain forward pass (largest "
            f"difference {largest:.1g} of a site's largest value, {self.bits:.1g} bit); "
            f"{WORDS[self.batching]}"
        )
        if not any(site.role == RESIDUAL for site in self.sites):
            text += "; its layers' own outputs, the residual stream, cannot be recorded"
        if self.left_out:
            text += f"; {len(self.left_out)} differ and are left out (--skipped names them)"
        for batching, reason in self.refused.items():
            text += f"; not {WORDS[batching]}: {reason}"
        return text


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Largest differences of one way of batching."""

    errors: Mapping[str, float]  # by module name, the head among them
    bits: float


def exact_sites(loaded: LoadedModel) -> tuple[LoadedModel, SiteTable, Exactness]:
    """Find the sites whose values are the model's own, and how its prompts may be batched.

    Refuses a model whose residual stream or logits differ however it is batched.
    """
    try:
        return _exact_sites(loaded)
    except MemoryError as error:
        raise ModelError(
            f"model {loaded.name}: memory does not suffice for a few short prompts ({error}); "
            "use --dtype bfloat16, another --device, or a smaller model"
        ) from None


def _exact_sites(loaded: LoadedModel) -> tuple[LoadedModel, SiteTable, Exactness]:
    began = time.perf_counter()
    table = find_sites(loaded)
    refused: dict[Batching, str] = {}
    for batching in get_args(Batching):
        loaded = replace(loaded, batching=batching)
        measured, table = _measure(loaded, table)
        reason = _stream_differs(table, measured, loaded.dtype)
        if not reason:
            break
        refused[batching] = reason
    else:
        raise ModelError(f"model {loaded.name}: {_why_refused(loaded, reason)}")
    left_out = {
        site.name: f"not what a plain forward pass gives: differs by {error:.2g} of its largest "
        "value when prompts are generated together"
        for site in table.sites
        if (error := measured.errors[site.name]) > _tolerance(loaded.dtype)[0]
    }
    kept = table.without(left_out)
    if not kept.sites:
        name, difference = next(iter(left_out.items()))
        raise ModelError(
            f"model {loaded.name}: no module has the values of a plain forward pass when it is "
            f"generated with a cache ({name}: {difference})"
        )
    errors: dict[str, float] = {}
    for site in (*kept.sites, *kept.head):
        errors[site.role] = max(errors.get(site.role, 0.0), measured.errors[site.name])
    loaded = replace(loaded, shortest_prompt=_shortest_prompt(loaded, table))
    exactness = Exactness(
        batching=loaded.batching,
        sites=kept.sites,
        errors=errors,
        bits=measured.bits,
        left_out=left_out,
        refused=refused,
        lengths=_rounds(loaded),
        dtype=loaded.dtype,
        device=describe_devices(loaded.model) or loaded.device,
    )
    logger.info("exactness: %s (%.1f s)", exactness.summary(), time.perf_counter() - began)
    return loaded, kept, exactness


def _measure(loaded: LoadedModel, table: SiteTable) -> tuple[_Measured, SiteTable]:
    """Compare all sites; those that cannot be read both in a batch and alone leave the table."""
    while True:
        try:
            return _compare(loaded, (*table.sites, *table.head), _rounds(loaded)), table
        except SiteError as error:
            table = table.without({error.site.name: error.reason})


def _compare(
    loaded: LoadedModel, sites: Sequence[Site], rounds: tuple[tuple[int, ...], ...]
) -> _Measured:
    """Generate, read and read alone the same texts."""
    largest, differences = np.zeros(len(sites)), np.zeros(len(sites))
    bits = 0.0
    for index, lengths in enumerate(rounds):
        prompts = _prompts(loaded, lengths)
        uniforms = np.random.default_rng(index).random((len(prompts), N_TOKENS))
        recorded = generate_batch(
            loaded, prompts, sites, sampling=Sampling(), uniforms=uniforms, first_step=0
        )
        tokens = recorded[0].token_ids.tolist()
        replayed = read_batch(loaded, prompts, tokens, sites, first_step=0)
        for row, prompt in enumerate(prompts):
            plain, alone = read_batch(
                loaded, [prompt], [tokens[row]], sites, first_step=0, masked=False
            )
            _widen(largest, sites, alone[0])
            for result, values in (recorded, replayed):
                _widen(differences, sites, values[row] - alone[0])
                for of in ("surprisal", "entropy"):
                    difference = np.abs(getattr(result, of)[row] - getattr(plain, of)[0]).max()
                    bits = float(np.maximum(bits, difference))  # keeps a NaN
    with np.errstate(invalid="ignore"):
        errors = differences / np.maximum(largest, np.finfo(np.float32).tiny)
    errors[~np.isfinite(errors)] = np.inf
    names = [site.name for site in sites]
    return _Measured(
        errors=dict(zip(names, errors.tolist(), strict=True)),
        bits=bits if np.isfinite(bits) else np.inf,
    )


def _shortest_prompt(loaded: LoadedModel, table: SiteTable) -> int:
    """Find whether a prompt may be one token, 1, or not, 2.

    RecurrentGemma keeps its state in its modules and begins anew only with a longer prompt: one
    token would go on from the last text.
    """
    if beginning(loaded):
        return 1  # no prompt is that short
    stream = replace(table, sites=tuple(s for s in table.sites if s.role == RESIDUAL))
    uniforms = np.full((3, 2), 0.5)  # leaves a state of as many prompts behind:
    generate_batch(loaded, _prompts(loaded, (2, 2, 2)), (), sampling=Sampling(), uniforms=uniforms)
    measured = _compare(loaded, (*stream.sites, *stream.head), ((1, 1, 1),))
    return 2 if _stream_differs(stream, measured, loaded.dtype) else 1


def _widen(
    largest: npt.NDArray[np.float64], sites: Sequence[Site], values: npt.NDArray[np.float32]
) -> None:
    """Take the largest absolute value of each site in (n_tokens, n_units) into (n_sites,)."""
    widths = [site.width for site in sites]
    starts = np.cumsum([0, *widths[:-1]])
    np.maximum(largest, np.maximum.reduceat(np.abs(values).max(axis=0), starts), out=largest)


def _rounds(loaded: LoadedModel) -> tuple[tuple[int, ...], ...]:
    """Lengths of the prompts that run together, batch by batch."""
    rounds: tuple[tuple[int, ...], ...] = ((3, 5, 8, 13, 21),)
    if torch.device(loaded.device).type == "cuda":
        # attention kernels go by 32, and a step longer is where some have failed
        rounds += ((4, 9, 16, 27, 33), (3, 11, 32, 50, 64))
    if loaded.batching == "equal":
        rounds = tuple((lengths[2],) * len(lengths) for lengths in rounds)
    longest = loaded.max_length - N_TOKENS
    return tuple(lengths for lengths in rounds if max(lengths) <= longest) or ((1, 2, 3, 4, 5),)


def _prompts(loaded: LoadedModel, lengths: Sequence[int]) -> list[list[int]]:
    """Draw prompts of given lengths, each after the special tokens that begin a text."""
    drawn = plain_tokens(loaded, len(lengths), max(lengths)).tolist()
    return [[*beginning(loaded), *row][:n] for row, n in zip(drawn, lengths, strict=True)]


def _stream_differs(table: SiteTable, measured: _Measured, dtype: str) -> str:
    """Say how the residual stream or the logits differ; "" if they do not."""
    tolerance, bits = _tolerance(dtype)
    stream = [site for site in table.sites if site.role == RESIDUAL]
    for what, sites in (("values of the residual stream", stream), ("logits", table.head)):
        error = max((measured.errors[site.name] for site in sites), default=0.0)
        if error > tolerance:
            return f"the {what} differ by {error:.2g} of their largest value"
    if measured.bits > bits:
        return f"the tokens' surprisal differs by {measured.bits:.2g} bit"
    return ""


def _tolerance(dtype: str) -> tuple[float, float]:
    return TOLERANCES.get(dtype, TOLERANCES["float32"])


def _why_refused(loaded: LoadedModel, reason: str) -> str:
    """Say why a model cannot be recorded, after all ways of batching failed."""
    (prompt,) = _prompts(loaded, (9,))
    entropy = []
    for n in (1, 5):
        text, more = [prompt[:4]], [prompt[4 : 4 + n]]
        read, _ = read_batch(loaded, text, more, (), first_step=0, masked=False)
        entropy.append(read.entropy[0, 0])
    if abs(entropy[0] - entropy[1]) > _tolerance(loaded.dtype)[1]:
        return (
            "it is not causal: what it computes at a token changes with the tokens after it; "
            "expected a model that generates from left to right (BERT and its kin need "
            "is_decoder in their configuration)"
        )
    return (
        "what it computes token by token, with its cache, is not what a plain forward pass over "
        f"the same text gives, in a batch or alone ({reason}); it cannot be recorded truly with "
        "this version of transformers"
    )
