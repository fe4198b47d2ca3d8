"""A trial of targets: each choice is trained for a few steps, and other text is measured too."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from llm2bids.exceptions import InterventionError
from llm2bids.inference.rates import mean_interval, percentile_interval
from llm2bids.options import Options, option

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.weights import NeuronLayer

Floats = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]
Texts = list[list[int]]

N_BOOT = 2000

_of_trial = partial(option, group="trial")


@dataclass(frozen=True, kw_only=True)
class TrialOptions(Options):
    """How choices are trained."""

    n_steps: int = _of_trial(15, "--n-steps", "steps of Adam", least=1)
    n_batch: int = _of_trial(8, "--batch", "texts of a step", least=1)
    n_seeds: int = _of_trial(
        3, "--n-seeds", "seeds of order, random rows and LoRA's start", least=1
    )
    learning_rates: tuple[float, ...] = _of_trial(
        (1e-3, 3e-3),
        "--learning-rates",
        "tried by each method on the validation part",
        shown="0.001 0.003 (all: a tenth)",
        nargs="+",
        least=1e-9,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What is trained: network, random and Fisher rows, LoRA and all neurons."""

    loaded: "LoadedModel"
    layers: "Sequence[NeuronLayer]"
    choices: Mapping[str, Marks]
    training: Texts
    testing: Mapping[str, Texts]
    options: TrialOptions
    draw: Callable[[int], Marks]  # random rows of a seed
    seed: int

    methods = ("network", "random", "fisher", "lora", "all")

    def run(self, *, progress: bool) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
        """Train every choice at every rate, at the best one with every seed; tables, metadata."""
        n_seeds, learning_rates = self.options.n_seeds, self.options.learning_rates
        n_kept = len(self.training) * 3 // 4  # the others choose the rate
        training, validation = self.training[:n_kept], {"validation": self.training[n_kept:]}
        if not training or not validation["validation"]:
            raise InterventionError(
                f"trial: {len(self.training)} training texts; expected 4 or more, a quarter of "
                "which chooses the learning rate: give more texts (--n-texts, --texts)"
            )
        before = self._nll({**self.testing, **validation})
        rates: list[tuple[str, float, float, bool]] = []
        changes: dict[tuple[str, str], list[Floats]] = defaultdict(list)
        n_runs = len(self.methods) * (len(learning_rates) + n_seeds - 1)
        with tqdm(total=n_runs, desc="trial", disable=not progress) as bar:
            for method in self.methods:
                firsts = {}
                for rate in [rate / 10 if method == "all" else rate for rate in learning_rates]:
                    with self._trained(method, training, rate, self.seed):
                        firsts[rate] = self._nll({**validation, **self.testing})
                    bar.update()
                scores = {
                    rate: float(nll["validation"].mean()) - float(before["validation"].mean())
                    for rate, nll in firsts.items()
                }
                best = min(scores, key=scores.__getitem__)
                rates += [(method, rate, score, rate == best) for rate, score in scores.items()]
                trained = [firsts[best]]  # the first seed has been trained at this rate
                for number in range(1, n_seeds):
                    with self._trained(method, training, best, self.seed + number):
                        trained.append(self._nll(self.testing))
                    bar.update()
                for after, kind in product(trained, self.testing):
                    changes[method, kind].append(after[kind] - before[kind])
        runs = {key: np.array(values) for key, values in changes.items()}
        tables = {
            "trial": self._table(runs),
            "rates": pd.DataFrame(
                rates, columns=["method", "learning_rate", "validation", "chosen"]
            ),
            "differences": _differences(runs, self.methods),
        }
        return tables, {"NumberOfSteps": self.options.n_steps, "NumberOfSeeds": n_seeds}

    @contextmanager
    def _trained(self, method: str, texts: Texts, rate: float, seed: int) -> Iterator[None]:
        from llm2bids.model.training import added_lora, added_rows, trained

        rng = np.random.default_rng([seed, 0])
        n_needed = self.options.n_steps * self.options.n_batch
        order = np.concatenate(
            [rng.permutation(len(texts)) for _ in range(-(-n_needed // len(texts)))]
        )[:n_needed]
        batches = [[texts[row] for row in rows] for rows in np.split(order, self.options.n_steps)]
        if method == "lora":
            added = added_lora(self.loaded, self._weights, rank=self._rank, seed=seed)
        else:
            marks = self.draw(seed) if method == "random" else self.choices[method]
            stops = np.cumsum([layer.width for layer in self.layers])[:-1]
            added = added_rows(self.loaded, self.layers, np.split(marks, stops))
        with trained(self.loaded, added, batches, learning_rate=rate):
            yield

    @cached_property
    def _weights(self) -> list[str]:
        """Names of the layers' projections."""
        from llm2bids.model.weights import parameter_names

        return [name for name in parameter_names(self.layers) if name.endswith(".weight")]

    @cached_property
    def _rank(self) -> int:
        """Rank at which a LoRA of all projections is as large as the network's rows."""
        from llm2bids.model.training import lora_size

        return max(round(self._size("network") / lora_size(self.loaded, self._weights)), 1)

    def _size(self, method: str) -> int:
        """Count the parameters that a method trains."""
        from llm2bids.model.training import lora_size, row_size

        if method == "lora":
            return self._rank * lora_size(self.loaded, self._weights)
        marks = self.choices["network" if method == "random" else method]
        return int(marks.sum()) * row_size(self.layers, self.loaded)

    def _nll(self, sets: Mapping[str, Texts]) -> dict[str, Floats]:
        """Measure the mean NLL of each text, in nats a token."""
        from llm2bids.model.read import text_nll

        return {
            name: np.array([nll.mean() for nll in text_nll(self.loaded, texts)])
            for name, texts in sets.items()
        }

    def _table(self, runs: Mapping[tuple[str, str], Floats]) -> pd.DataFrame:
        rows = []
        for (method, kind), changes in runs.items():
            change = changes.mean(axis=0)
            low, high = mean_interval(change)
            spread = (change.mean(), low, high, np.abs(changes).mean(), change.size)
            rows.append((method, self._size(method), kind, *spread))
        names = ["method", "n_parameters", "text", "change", "low", "high", "size", "n"]
        return pd.DataFrame(rows, columns=names)


def _differences(runs: Mapping[tuple[str, str], Floats], methods: Sequence[str]) -> pd.DataFrame:
    """Compare the network's rows with each other method, by changes (n_seeds, n_texts) of texts.

    Spillover is how much one training changes an off text, whatever the sign: the mean change is
    small where some texts gain what others lose.
    """
    rows = []
    for method in methods[1:]:
        own, off = ((runs["network", kind], runs[method, kind]) for kind in ("own", "off"))
        gain, change = (np.subtract(*(part.mean(axis=0) for part in pair)) for pair in (own, off))
        spillover = np.subtract(*(np.abs(part).mean(axis=0) for part in off))
        rows += [
            (method, "own", gain.mean(), *mean_interval(gain)),
            (method, "spillover", spillover.mean(), *mean_interval(spillover)),
            (method, "own - off", *_apart(gain, change)),
        ]
    return pd.DataFrame(rows, columns=["network_minus", "measure", "difference", "low", "high"])


def _apart(own: Floats, off: Floats) -> tuple[float, float, float]:
    """Subtract the mean of differences of off texts from that of own ones, each drawn apart."""
    rng = np.random.default_rng(0)
    boot = own[rng.integers(own.size, size=(N_BOOT, own.size))].mean(axis=1)
    boot -= off[rng.integers(off.size, size=(N_BOOT, off.size))].mean(axis=1)
    return float(own.mean() - off.mean()), *percentile_interval(boot)
