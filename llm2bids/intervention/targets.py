"""Targets: which weights to train, as a network, gradients and chance choose them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from tqdm.auto import tqdm

from llm2bids.exceptions import InterventionError
from llm2bids.inference.rates import mean_interval
from llm2bids.inference.statmap import notes_of
from llm2bids.intervention.results import InterventionResult
from llm2bids.intervention.subject import (
    Subject,
    SubjectOptions,
    TopicOptions,
    open_subject,
)
from llm2bids.intervention.trial import Texts, Trial, TrialOptions
from llm2bids.intervention.units import Sign, default_sites, site_mask
from llm2bids.options import Options, option, shared, split_options, takes_options
from llm2bids.space.stat_map import select_units, units_at

Floats = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]

# Texts of a set: half to train on, half to test on.
LEAST_TEXTS = 8

# Share of all units whose number in a module's output is the module's share of the network.
NETWORK_PERCENT = 5.0

_of_targets = partial(option, group="targets")
_of_text = partial(option, group="text")


@dataclass(frozen=True, kw_only=True)
class TargetsOptions(Options):
    """What is chosen, and on which text that is measured."""

    task: str = _of_targets(
        "", "--task LABEL", "topic whose network and text are taken", required=True
    )
    stat_img: Any = shared(TopicOptions, "stat_img", group="targets")
    top_percent: float = _of_targets(
        1.0,
        "--top P",
        "percent of the MLPs' neurons that are trained: the budget",
        above=0,
        below=100,
    )
    sign: Sign = _of_targets(
        "positive",
        "--sign",
        "effects of the network's neurons; those with negative ones are "
        "active on other text, which training them changes",
    )
    n_draws: int = _of_targets(200, "--draws", "random choices in the same layers", least=1)
    texts: Path | None = _of_text(
        None, "--texts", "the topic's text set, a text a line, in place of held-out prompts"
    )
    n_texts: int = _of_text(
        40,
        "--n-texts",
        "held-out prompts of the topic: one half to train on, one to test",
        least=LEAST_TEXTS,
    )
    n_other: int = _of_text(
        16, "--n-other", "held-out prompts of no topic, and of all other topics together", least=2
    )
    trial: bool = option(
        False,
        "--trial",
        "fine-tune each choice for a few steps too (takes many minutes)",
        group="trial",
    )


@takes_options(SubjectOptions, TargetsOptions, TrialOptions)
def targets(
    bids_dir: str | Path, analysis_dir: str | Path, *, progress: bool = True, **options: Any
) -> InterventionResult:
    """Say which neurons and modules to train for a topic, as each way to choose would have it.

    Parameters
    ----------
    bids_dir : str or Path
        Dataset of the model.
    analysis_dir : str or Path
        Output folder of `llm2bids analyze`, whose effect maps give the network; results are
        written to ``group/targets`` in it.
    progress : bool
        Show a progress bar on stderr.
    **options
        The options of the command.

    Returns
    -------
    InterventionResult
        Tables ``choices``, ``neurons`` and ``modules``; with a trial also ``trial``, ``rates``
        and ``differences``.

    Raises
    ------
    Llm2bidsError
        If an argument, the dataset or its model is not usable, or a text set is too small.
    """
    of_subject, chosen, of_trial = split_options(
        options, SubjectOptions, TargetsOptions, TrialOptions
    )
    subject = open_subject(bids_dir, analysis_dir, of_subject)
    result = _Targets(subject=subject, options=chosen, trial=of_trial).run(progress=progress)
    result.save(Path(analysis_dir))
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class _Targets:
    """Choices of neurons, and what gradients say of them."""

    subject: Subject
    options: TargetsOptions
    trial: TrialOptions

    def __post_init__(self) -> None:
        self.subject.choose((self.options.task,))

    @cached_property
    def layers(self) -> tuple[Any, ...]:
        """Neurons of each MLP."""
        from llm2bids.model.weights import mlp_neurons

        sites = self.subject.dataset.space.sites
        names = set(default_sites(sites))
        return mlp_neurons(
            self.subject.loaded.model, [site for site in sites if site.name in names]
        )

    @cached_property
    def neurons(self) -> npt.NDArray[np.intp]:
        """Unit of each neuron, (n_neurons,), layer by layer."""
        slices = self.subject.dataset.space.site_slices
        return np.concatenate([np.r_[slices[layer.site.name]] for layer in self.layers])

    @cached_property
    def effect(self) -> Floats:
        """Effect of every unit, (n_units,)."""
        return self.subject.effect(self.options.task, self.options.stat_img)

    @cached_property
    def budget(self) -> int:
        """Neurons that are trained."""
        return max(int(np.ceil(self.options.top_percent / 100 * self.neurons.size)), 1)

    def top(self, values: Floats) -> Marks:
        """Mark the neurons with the largest values, as many as the budget has, (n_neurons,)."""
        marks = np.zeros(self.neurons.size, dtype=bool)
        marks[select_units(values, top_percent=self.options.top_percent)] = True
        return marks

    @cached_property
    def network(self) -> Marks:
        """Mark the neurons with the largest effects of the sign asked for, (n_neurons,)."""
        values = self.effect[self.neurons]
        signed = {"both": np.abs(values), "negative": -values}.get(self.options.sign, values)
        marks = self.top(np.maximum(np.nan_to_num(signed), 0))
        if marks.sum() < self.budget:
            raise InterventionError(
                f"{self.options.task}: {marks.sum()} of {values.size:,} MLP neurons have effects "
                f"of sign {self.options.sign}; expected {self.budget}: lower --top, or take "
                "--sign both"
            )
        return marks

    def drawn(self, like: Marks, rng: np.random.Generator) -> Marks:
        """Draw as many neurons of each layer at random."""
        marks, start = np.zeros_like(like), 0
        for layer in self.layers:
            part = slice(start, start + layer.width)
            marks[start + rng.permutation(layer.width)[: like[part].sum()]] = True
            start = part.stop
        return marks

    def text_sets(self) -> tuple[Texts, dict[str, Texts]]:
        """Draw texts that nothing has seen: half of the topic's to train on, the others to test."""
        banks, given = self.subject.banks, self.options.texts

        def held_out(bank: str, n: int) -> Texts:
            return self.subject.tokens(self.subject.held_out(bank, n))

        own_bank = banks[self.options.task]
        if given is None:
            own = held_out(own_bank, self.options.n_texts)
        else:
            own = _read_texts(self.subject, given)
        if len(own) < LEAST_TEXTS:
            raise InterventionError(
                f"{given or own_bank}: {len(own)} texts; expected {LEAST_TEXTS} or "
                "more, one half to train on and one to test on (--n-texts, --texts)"
            )
        others = [bank for label, bank in banks.items() if label != self.options.task]
        each = -(-self.options.n_other // max(len(others), 1))
        testing = {
            "own": own[len(own) // 2 :],
            "off": held_out(self.subject.baseline, self.options.n_other),
            "others": [text for bank in others for text in held_out(bank, each)],
        }
        return own[: len(own) // 2], {name: texts for name, texts in testing.items() if texts}

    def run(self, *, progress: bool) -> InterventionResult:
        """Measure all choices; train them where that is asked for."""
        from llm2bids.model.sites import find_layers
        from llm2bids.model.training import first_order_gains, layer_weights

        network, (training, testing) = self.network, self.text_sets()
        loaded, seed = self.subject.loaded, self.subject.seed
        n_texts = {"training": len(training)} | {kind: len(part) for kind, part in testing.items()}
        with tqdm(total=sum(n_texts.values()), desc="gradients", disable=not progress) as bar:
            weights = layer_weights(loaded, find_layers(loaded.model)[0])
            gains = first_order_gains(
                loaded, self.layers, weights, training, testing, on_text=bar.update
            )
        choices = {
            "network": network,
            "fisher": self.top(gains.fisher),
            "all": np.ones_like(network),
        }
        rng = np.random.default_rng(seed)
        draws = [self.drawn(network, rng) for _ in range(self.options.n_draws)]
        modules, rank = self._modules(gains)
        tables = {
            "choices": self._choices(choices, draws, gains.gains),
            "neurons": self._neurons(choices, gains),
            "modules": modules,
        }
        metadata = {
            "Task": self.options.task, "Seed": seed, "Budget": self.budget,
            "TopPercent": self.options.top_percent, "Sign": self.options.sign,
            "ModuleShareRankCorrelation": rank, "NumberOfTexts": n_texts,
        }  # fmt: skip
        if self.options.trial:
            trial = Trial(
                loaded=loaded, layers=self.layers, choices=choices, training=training,
                testing=testing, options=self.trial, seed=seed,
                draw=lambda seed: self.drawn(network, np.random.default_rng([seed, 1])),
            )  # fmt: skip
            trained, more = trial.run(progress=progress)
            tables = {"choices": tables["choices"], **trained, **tables}
            metadata |= more
        return InterventionResult(
            name="targets",
            stem=self.options.task,
            tables=tables,
            metadata=metadata,
            notes=notes_of("targets"),
            n_shown=len(tables) - 2,
        )

    def _choices(
        self, choices: Mapping[str, Marks], draws: Sequence[Marks], gains: Mapping[str, Floats]
    ) -> pd.DataFrame:
        """Sum gains over each choice; random choices give their mean and where 95 % lie."""
        total = gains["own"].mean(axis=0).sum()
        means = {kind: values.mean(axis=0) for kind, values in gains.items()}

        def measured(marks: Marks) -> dict[str, float]:
            own = float(means["own"][marks].sum())
            parts = {f"{kind}_gain": float(values[marks].sum()) for kind, values in means.items()}
            return {
                **parts,
                "share": own / total,
                "times_even": own / total / marks.mean(),
                "spillover": parts["off_gain"] / own,
            }

        random = pd.DataFrame([measured(marks) for marks in draws])
        chosen = pd.DataFrame([measured(marks) for marks in choices.values()], index=[*choices])
        own = [gains["own"][:, marks].sum(axis=1) for marks in choices.values()]
        chosen[["own_low", "own_high"]] = [mean_interval(values) for values in own]
        n_larger = [(random["share"] >= share).sum() for share in chosen["share"]]
        n_local = [(random["spillover"] <= share).sum() for share in chosen["spillover"]]
        chosen["p_share"] = (1 + np.array(n_larger)) / (1 + len(draws))
        chosen["p_spillover"] = (1 + np.array(n_local)) / (1 + len(draws))
        spread = random.quantile([0.025, 0.975]).set_axis(["random low", "random high"])
        table = pd.concat([chosen, random.mean().to_frame("random").T, spread])
        sizes = [int(marks.sum()) for marks in (*choices.values(), *[draws[0]] * 3)]
        table.insert(0, "n_neurons", sizes)
        return table.rename_axis("choice").reset_index()

    def _neurons(self, choices: Mapping[str, Marks], gains: Any) -> pd.DataFrame:
        units = units_at(self.subject.dataset.space, self.neurons)[["address", "layer", "unit"]]
        return units.assign(
            effect=self.effect[self.neurons],
            network=choices["network"].astype(int),
            fisher=gains.fisher,
            **{f"{kind}_gain": v.mean(axis=0) for kind, v in gains.gains.items()},
        )

    def _modules(self, gains: Any) -> tuple[pd.DataFrame, float]:
        """Put each weight matrix beside its module's share of the network."""
        space = self.subject.dataset.space
        inside = np.flatnonzero(site_mask(space, ("all",)))
        top = inside[select_units(self.effect[inside], top_percent=NETWORK_PERCENT)]
        names = [name.removesuffix(".weight") for name in gains.modules]
        slices = [space.site_slices.get(name) for name in names]
        in_top = np.isin(np.arange(space.n_units), top)
        share = np.array([np.nan if s is None else in_top[s].sum() / top.size for s in slices])
        own = gains.module_gains["own"].mean(axis=0)
        table = pd.DataFrame(
            {
                "module": names,
                "parameter": gains.modules,
                "n_parameters": gains.sizes,
                "mean_effect": [
                    np.nan if s is None else np.abs(self.effect[s]).mean() for s in slices
                ],
                "share_of_network": share,
                "fisher": gains.module_fisher,
                "own_gain": own,
                "own_gain_per_million": own / gains.sizes * 1e6,
                "spillover": gains.module_gains["off"].mean(axis=0) / own,
            }
        )
        known = np.isfinite(share)
        if known.sum() < 3 or np.ptp(share[known]) == 0:
            return table, float("nan")
        return table, float(stats.spearmanr(share[known], (own / gains.sizes)[known]).statistic)


def _read_texts(subject: Subject, path: Path) -> list[list[int]]:
    """Read a text set, a text a line."""
    from llm2bids.model.tokenizer import encode

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InterventionError(
            f"{path}: cannot be read ({error}); expected text in UTF-8, a text a line"
        ) from None
    texts = [encode(subject.loaded, line) for line in lines if line.strip()]
    short = next((row for row, text in enumerate(texts) if len(text) < 2), None)
    if short is not None:
        raise InterventionError(f"{path}: text {short + 1} has one token; expected two or more")
    return texts
