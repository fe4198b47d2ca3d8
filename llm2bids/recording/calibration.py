"""Scans of prompts that no run shows: the calibration, and the localizer of an arrangement."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llm2bids.model.units import Site
from llm2bids.paradigm.task import Prompt, Sampling
from llm2bids.recording.batches import OnToken, check_finite, in_batches
from llm2bids.recording.tokens import first_step, prompt_tokens, token_uniforms

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

# Prompts in a batch, where the caller names none: one batch of values is kept at a time.
CALIBRATION_BATCH_SIZE = 16

# A unit whose sd is below this share of its mean only shows rounding: it did not vary.
ROUNDING = 1e-6

# Counts of a volume for one standard deviation, in datasets that are begun: a step of 0.01 sd, and
# units 15 sd below their mean stay in automatic masks. A dataset says its own.
COUNTS_PER_SD = 100

# Gain of datasets that do not say their own, as those of earlier versions.
EARLIER_COUNTS_PER_SD = 500

_CHUNK = 16384


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """The scanner's receive gain: fixed for a whole dataset."""

    mean: npt.NDArray[np.float32]  # (n_units,), in the model's own scale
    sd: npt.NDArray[np.float32]  # (n_units,), 0 where the unit did not vary (it is scaled by 1)
    prompt_ids: tuple[str, ...]
    n_tokens: int
    counts_per_sd: int = COUNTS_PER_SD

    @property
    def scale(self) -> npt.NDArray[np.float32]:
        """Divisor of each unit, shape (n_units,): `sd`, with 1 where it is 0."""
        return np.where(self.sd > 0, self.sd, np.float32(1)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class RestScan:
    """How prompts that belong to no run are scanned."""

    tokens_per_prompt: int
    sampling: Sampling
    seed: int
    batch_size: int | None = None
    keep_first: bool = False
    on_token: OnToken | None = None


def calibrate(
    loaded: "LoadedModel", prompts: Sequence[Prompt], sites: Sequence[Site], how: RestScan
) -> Calibration:
    """Scan the model at rest: mean and sd of each unit, summed in float64 batch by batch."""
    moments = Moments(sum(site.width for site in sites))
    for _, values in _scan(loaded, prompts, sites, how):
        moments.add(values.reshape(-1, values.shape[-1]))
    mean, sd = moments.mean_sd()
    ids = tuple(prompt.prompt_id for prompt in prompts)
    return Calibration(mean=mean, sd=sd, prompt_ids=ids, n_tokens=moments.count)


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalizerScan:
    """Mean responses to prompts that no run shows."""

    means: npt.NDArray[np.float32]  # (n_prompts, n_units), in the model's own scale
    conditions: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    n_tokens: int


def scan_localizer(
    loaded: "LoadedModel", prompts: Sequence[Prompt], sites: Sequence[Site], how: RestScan
) -> LocalizerScan:
    """Scan the model and keep the mean response to each prompt."""
    means = np.empty((len(prompts), sum(site.width for site in sites)), dtype=np.float32)
    for part, values in _scan(loaded, prompts, sites, how):
        np.mean(values, axis=1, out=means[part])
    return LocalizerScan(
        means=means,
        conditions=tuple(prompt.condition for prompt in prompts),
        prompt_ids=tuple(prompt.prompt_id for prompt in prompts),
        n_tokens=len(prompts) * how.tokens_per_prompt,
    )


def _scan(
    loaded: "LoadedModel", prompts: Sequence[Prompt], sites: Sequence[Site], how: RestScan
) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Scan prompts that belong to no run, batch by batch.

    Yields the batch's slice of the prompts and its values (n_prompts, tokens_per_prompt, n_units),
    which the next batch overwrites.
    """
    from llm2bids.model.generate import generate_batch
    from llm2bids.model.hooks import new_values

    first = first_step(how.keep_first)
    n_tokens = how.tokens_per_prompt + first
    tokens = prompt_tokens(loaded, prompts, n_tokens=n_tokens)
    uniforms = token_uniforms(how.seed, range(len(prompts)), n_tokens)
    size = min(how.batch_size or CALIBRATION_BATCH_SIZE, len(prompts))
    n_units = sum(site.width for site in sites)
    buffer = new_values((size, how.tokens_per_prompt, n_units), loaded.device)

    def scan(part: slice, tell: OnToken) -> tuple[slice, npt.NDArray[np.float32]]:
        values = buffer[: part.stop - part.start]
        generate_batch(
            loaded, tokens[part], sites, sampling=how.sampling, uniforms=uniforms[part],
            first_step=first, on_step=tell, out=values,
        )  # fmt: skip
        check_finite(values, sites, [prompt.prompt_id for prompt in prompts[part]], first)
        return part, values

    for _, scanned in in_batches(len(prompts), scan, batch_size=size, on_token=how.on_token):
        yield scanned


class Moments:
    """Mean and standard deviation of columns, one batch of rows at a time.

    Batches are merged as by Chan, Golub & LeVeque (1983, The American Statistician 37:242), in
    float64.
    """

    def __init__(self, n_units: int) -> None:
        self.count = 0
        self._mean = np.zeros(n_units)
        self._squares = np.zeros(n_units)

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Take in rows (n_rows, n_units)."""
        n_new = len(rows)
        total = self.count + n_new
        for start in range(0, rows.shape[1], _CHUNK):  # a float64 copy of a part at a time
            part = slice(start, start + _CHUNK)
            values = rows[:, part].astype(np.float64)
            mean = values.mean(axis=0)
            values -= mean
            delta = mean - self._mean[part]
            self._squares[part] += np.einsum("ij,ij->j", values, values)
            self._squares[part] += delta**2 * (self.count * n_new / total)
            self._mean[part] += delta * (n_new / total)
        self.count = total

    def mean_sd(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Give mean and sd (n_units,): sd exactly 0 where a column shows nothing but rounding."""
        sd = np.sqrt(self._squares / self.count)
        sd[sd <= ROUNDING * np.abs(self._mean)] = 0
        return self._mean.astype(np.float32), sd.astype(np.float32)
