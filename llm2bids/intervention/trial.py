"""A trial of targets: each choice is trained for a few steps, and other text is measured too."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from llm2bids.exceptions import InterventionError
from llm2bids.inference.rates import mean_interval, percentile_interval
from llm2bids.options import check_least, option

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.neurons import NeuronLayer

Floats = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]
Texts = list[list[int]]

N_BOOT = 2000


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """How choices are trained."""

    n_steps: int = option(15, "--n-steps", "steps of Adam", group="trial")
    n_batch: int = option(8, "--batch", "texts of a step", group="trial")
    n_seeds: int = option(
        3, "--n-seeds", "seeds of order, random rows and LoRA's start", group="trial"
    )
    learning_rates: tuple[float, ...] = option(
        (1e-3, 3e-3), "--learning-rates", "tried by each method on the validation part",
        group="trial", shown="0.001 0.003 (all: a tenth)", nargs="+",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_least(self, {"n_steps": 1, "n_batch": 1, "n_seeds": 1, "learning_rates": 1e-9})


@dataclass(frozen=True, kw_only=True)
class TrialTexts:
    """Tokens of the texts to train on, and of those to test on: own topic, no topic, others."""

    training: Texts
    own: Texts
    off: Texts
    others: Texts

    def testing(self) -> dict[str, Texts]:
        """Give the text sets that are measured."""
        sets = {"own": self.own, "off": self.off, "others": self.others}
        return {name: texts for name, texts in sets.items() if texts}

    def validation(self) -> tuple[Texts, Texts]:
        """Split the training texts: three quarters to train on, one to choose the rate on."""
        n_kept = len(self.training) * 3 // 4
        if n_kept < 1 or n_kept == len(self.training):
            raise InterventionError(
                f"trial: {len(self.training)} training texts; expected 4 or more, a quarter of "
                "which chooses the learning rate: give more texts (--n-texts, --texts)"
            )
        return self.training[:n_kept], self.training[n_kept:]


def run_trial(
    loaded: "LoadedModel",
    layers: "Sequence[NeuronLayer]",
    choices: Mapping[str, Marks],
    texts: TrialTexts,
    options: TrialOptions,
    *,
    draw: Callable[[int], Marks],
    seed: int,
    progress: bool,
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Train network, random and Fisher rows, LoRA and all neurons; give tables and metadata."""
    trial = _Trial(loaded=loaded, layers=layers, choices=choices, texts=texts, options=options,
                   draw=draw, seed=seed)  # fmt: skip
    n_runs = len(trial.methods) * (len(options.learning_rates) + options.n_seeds - 1)
    with tqdm(total=n_runs, desc="trial", disable=not progress) as bar:
        return trial.run(bar.update)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    loaded: "LoadedModel"
    layers: "Sequence[NeuronLayer]"
    choices: Mapping[str, Marks]
    texts: TrialTexts
    options: TrialOptions
    draw: Callable[[int], Marks]
    seed: int

    methods = ("network", "random", "fisher", "lora", "all")

    def run(self, step: Callable[[int], Any]) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
        training, validation = self.texts.validation()
        before = self._nll(self.texts.testing())
        unchanged = float(self._nll({"validation": validation})["validation"].mean())
        rates: list[dict[str, Any]] = []
        changes: dict[tuple[str, str], list[Floats]] = {}
        for method in self.methods:
            scores: dict[float, float] = {}
            firsts: dict[float, dict[str, Floats]] = {}
            for rate in self.options.learning_rates:
                own = rate / 10 if method == "all" else rate
                with self._trained(method, training, own, self.seed):
                    nll = self._nll({"validation": validation})["validation"].mean()
                    firsts[own] = self._nll(self.texts.testing())
                scores[own] = float(nll) - unchanged
                step(1)
            best = min(scores, key=scores.__getitem__)
            rates += [
                {
                    "method": method, "learning_rate": rate, "validation": score,
                    "chosen": rate == best,
                }
                for rate, score in scores.items()
            ]  # fmt: skip
            trained = [firsts[best]]  # the first seed has been trained at this rate
            for number in range(1, self.options.n_seeds):
                with self._trained(method, training, best, self.seed + number):
                    trained.append(self._nll(self.texts.testing()))
                step(1)
            for after in trained:
                for kind, values in after.items():
                    changes.setdefault((method, kind), []).append(values - before[kind])
        runs = {key: np.array(values) for key, values in changes.items()}
        tables = {
            "trial": self._table(runs),
            "rates": pd.DataFrame(rates),
            "differences": _differences(runs, self.methods),
        }
        return tables, {
            "NumberOfSteps": self.options.n_steps,
            "NumberOfSeeds": self.options.n_seeds,
        }

    @contextmanager
    def _trained(self, method: str, texts: Texts, rate: float, seed: int) -> Iterator[None]:
        from llm2bids.model.finetune import trained_lora, trained_rows
        from llm2bids.model.neurons import parameter_names

        rng = np.random.default_rng([seed, 0])
        n_needed = self.options.n_steps * self.options.n_batch
        order = np.concatenate(
            [rng.permutation(len(texts)) for _ in range(-(-n_needed // len(texts)))]
        )[:n_needed]
        batches = [[texts[row] for row in rows] for rows in np.split(order, self.options.n_steps)]
        if method == "lora":
            names = [n for n in parameter_names(self.layers) if n.endswith(".weight")]
            with trained_lora(
                self.loaded, names, batches, rank=self._rank(), learning_rate=rate, seed=seed
            ):
                yield
            return
        marks = self.draw(seed) if method == "random" else self.choices[method]
        stops = np.cumsum([layer.width for layer in self.layers])[:-1]
        with trained_rows(
            self.loaded, self.layers, np.split(marks, stops), batches, learning_rate=rate
        ):
            yield

    def _rank(self) -> int:
        """Give the rank at which a LoRA of all projections is as large as the network's rows."""
        from llm2bids.model.finetune import lora_size
        from llm2bids.model.neurons import parameter_names

        names = [n for n in parameter_names(self.layers) if n.endswith(".weight")]
        return max(round(self._size("network") / lora_size(self.loaded, names)), 1)

    def _size(self, method: str) -> int:
        """Count the parameters that a method trains."""
        from llm2bids.model.finetune import lora_size, row_size
        from llm2bids.model.neurons import parameter_names

        if method == "lora":
            names = [n for n in parameter_names(self.layers) if n.endswith(".weight")]
            return self._rank() * lora_size(self.loaded, names)
        marks = self.choices["network" if method == "random" else method]
        return int(marks.sum()) * row_size(self.layers, self.loaded)

    def _nll(self, sets: Mapping[str, Texts]) -> dict[str, Floats]:
        """Measure the mean NLL of each text, in nats a token."""
        from llm2bids.model.likelihood import text_nll

        return {
            name: np.array([nll.mean() for nll in text_nll(self.loaded, texts)])
            for name, texts in sets.items()
        }

    def _table(self, runs: Mapping[tuple[str, str], Floats]) -> pd.DataFrame:
        rows = []
        for (method, kind), changes in runs.items():
            change = changes.mean(axis=0)
            low, high = mean_interval(change)
            rows.append(
                {
                    "method": method, "n_parameters": self._size(method), "text": kind,
                    "change": change.mean(), "low": low, "high": high,
                    "size": np.abs(changes).mean(), "n": change.size,
                }
            )  # fmt: skip
        return pd.DataFrame(rows)


def _differences(runs: Mapping[tuple[str, str], Floats], methods: Sequence[str]) -> pd.DataFrame:
    """Compare the network's rows with each other method, by changes (n_seeds, n_texts) of texts.

    Spillover is how much one training changes an off text, whatever the sign: the mean change is
    small where some texts gain what others lose.
    """
    rows = []
    for method in methods[1:]:
        own, off = ((runs["network", kind], runs[method, kind]) for kind in ("own", "off"))
        for measure, value, low, high in (
            ("own", *_paired(*(changes.mean(axis=0) for changes in own))),
            ("spillover", *_paired(*(np.abs(changes).mean(axis=0) for changes in off))),
            ("own - off", *_apart(*(first.mean(axis=0) - second.mean(axis=0)
                                    for first, second in (own, off)))),
        ):  # fmt: skip
            rows.append(
                {
                    "network_minus": method, "measure": measure, "difference": value,
                    "low": low, "high": high,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _paired(first: Floats, second: Floats) -> tuple[float, float, float]:
    difference = first - second
    return float(difference.mean()), *mean_interval(difference)


def _apart(own: Floats, off: Floats) -> tuple[float, float, float]:
    """Subtract the mean of differences of off texts from that of own ones, each drawn apart."""
    rng = np.random.default_rng(0)
    boot = own[rng.integers(own.size, size=(N_BOOT, own.size))].mean(axis=1)
    boot -= off[rng.integers(off.size, size=(N_BOOT, off.size))].mean(axis=1)
    return float(own.mean() - off.mean()), *percentile_interval(boot)
