"""Monitor: the activity of a network at each token, and what it tells apart."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from llm2bids.exceptions import UsageError
from llm2bids.inference.rates import roc_area
from llm2bids.inference.statmap import notes_of, write_json
from llm2bids.intervention.answers import answer, text_classifier
from llm2bids.intervention.results import InterventionResult
from llm2bids.intervention.subject import Subject, SubjectOptions, TopicOptions, open_subject
from llm2bids.intervention.units import choose_units
from llm2bids.model.units import Site
from llm2bids.options import Options, option, shared, split_options, takes_options
from llm2bids.paradigm.task import Prompt
from llm2bids.store.tables import write_table

Floats = npt.NDArray[np.float64]

# Where a score is taken, by the tokens of the prompt; an answer's first token when it is read.
POSITIONS: dict[str, Callable[[int], slice]] = {
    "prompt mean": lambda n: slice(n),
    "last prompt token": lambda n: slice(n - 1, n),
    "first answer token": lambda n: slice(n, n + 1),
    "answer mean": lambda n: slice(n, None),
}

# Tokens of reading after which detections are counted.
READ = (2, 4, 6, 8, 14)

FALSE_POSITIVES = 0.05

# Layer of the linear probe, as a share of the depth.
PROBE_DEPTH = 0.87


@dataclass(frozen=True, kw_only=True)
class MonitorOptions(Options):
    """Which units are monitored, and on which prompts that is tried."""

    task_labels: Sequence[str] = shared(TopicOptions, "task_labels", group="monitor")
    stat_img: Any = shared(
        TopicOptions,
        "stat_img",
        group="monitor",
        text="a map in place of the mean effect map, with one --task",
    )
    sites: Sequence[str] | None = shared(TopicOptions, "sites", group="monitor")
    top_percent: float = option(
        0.1,
        "--top P",
        "percent of the units of these sites, those with the largest positive effects",
        group="monitor",
        above=0,
        most=100,
    )
    n_prompts: int = shared(TopicOptions, "n_prompts")
    n_defining: int = shared(TopicOptions, "n_defining", 32)
    n_tokens: int = shared(TopicOptions, "n_tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stat_img is not None and len(self.task_labels) != 1:
            raise UsageError(
                f"--map with {len(self.task_labels)} tasks (--task); expected one: its topic"
            )


@takes_options(SubjectOptions, MonitorOptions)
def monitor(
    bids_dir: str | Path, analysis_dir: str | Path, *, progress: bool = True, **options: Any
) -> InterventionResult:
    """Score the activity of networks at each token, and say what the scores tell apart.

    Parameters
    ----------
    bids_dir : str or Path
        Dataset of the model; each of its runs gets a time series of scores.
    analysis_dir : str or Path
        Output folder of `llm2bids analyze`, whose effect maps give the networks; results are
        written to ``group/monitor`` in it, time series beside the participants' maps
        (``*_desc-monitor_timeseries.tsv``).
    progress : bool
        Show a progress bar on stderr.
    **options
        The options of the command.

    Returns
    -------
    InterventionResult
        Tables ``monitor`` (areas under the ROC curve) and ``detection``.

    Raises
    ------
    Llm2bidsError
        If an argument, the dataset or its model is not usable, or too few prompts are held out.
    """
    of_subject, chosen = split_options(options, SubjectOptions, MonitorOptions)
    study = _Monitor(subject=open_subject(bids_dir, analysis_dir, of_subject), options=chosen)
    result = study.run(progress=progress)
    result.save(Path(analysis_dir))
    study.write_series(Path(analysis_dir), progress=progress)
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class _Read:
    """Scores and residual streams of one prompt and its answer, token by token but the first."""

    scores: Floats  # (n_tokens - 1, n_topics)
    stream: npt.NDArray[np.float32]  # (n_tokens - 1, width)
    n_prompt: int  # tokens of the prompt but its first


# By topic, or ``off``.
Reads = Mapping[str, list[_Read]]
Shown = Mapping[str, Sequence[Prompt]]


def _means(
    reads: Reads, values: Literal["scores", "stream"], part: Callable[[int], slice]
) -> dict[str, Floats]:
    """Average the scores or streams of each prompt over a part of its tokens, (n_prompts, ...)."""
    return {
        label: np.stack([getattr(read, values)[part(read.n_prompt)].mean(axis=0) for read in own])
        for label, own in reads.items()
    }


def _first(n_tokens: int, n_prompt: int) -> slice:
    """Take the first tokens of a prompt, as many as it has."""
    return slice(min(n_tokens, n_prompt))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Monitor:
    """Networks, and the prompts that they are tried on."""

    subject: Subject
    options: MonitorOptions

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Topics that are monitored."""
        return self.subject.choose(self.options.task_labels)

    @cached_property
    def networks(self) -> dict[str, npt.NDArray[np.intp]]:
        """Units of each topic's network."""
        given = self.options.stat_img
        return {
            label: choose_units(
                self.subject.dataset,
                stat_img=self.subject.effect(label) if given is None else given,
                sites=self.options.sites,
                top_percent=self.options.top_percent,
                sign="positive",
            ).units
            for label in self.labels
        }

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Sites that are read: those of the networks, then the probe's layer."""
        from llm2bids.model.sites import RESIDUAL

        space = self.subject.dataset.space
        used = np.zeros(space.n_units, dtype=bool)
        used[np.concatenate(list(self.networks.values()))] = True
        kept = [site for site in space.sites if used[space.site_slices[site.name]].any()]
        layers = [site for site in space.sites if site.role == RESIDUAL]
        layers = layers or [site for site in space.sites if site.layer is not None]
        probe = layers[min(round(PROBE_DEPTH * len(layers)), len(layers) - 1)]
        return (*(site for site in kept if site.name != probe.name), probe)

    def score(self, values: npt.NDArray[Any], columns: npt.NDArray[np.intp]) -> Floats:
        """Average the networks' z values; values (n_tokens, n), columns (n,): units of these."""
        calibration = self.subject.dataset.calibration
        column_of = np.full(self.subject.dataset.space.n_units, -1)
        column_of[columns] = np.arange(columns.size)
        scores = []
        for units in self.networks.values():
            z = (values[:, column_of[units]] - calibration.mean[units]) / calibration.scale[units]
            scores.append(z.mean(axis=1, dtype=np.float64))
        return np.stack(scores, axis=1)

    def read(self, prompts: Sequence[Prompt]) -> list[_Read]:
        """Read prompts and the model's answers to them."""
        from llm2bids.model.read import text_values

        slices = self.subject.dataset.space.site_slices
        columns = np.concatenate([np.r_[slices[site.name]] for site in self.sites])
        answered = answer(self.subject, prompts, n_tokens=self.options.n_tokens)
        width, kept = self.sites[-1].width, {}
        for row, values in text_values(self.subject.loaded, answered.whole_texts(), self.sites):
            kept[row] = _Read(
                scores=self.score(values[1:], columns),
                stream=values[1:, -width:].copy(),
                n_prompt=len(answered.contexts[row]) - 1,
            )
        return [kept[row] for row in range(len(prompts))]

    def run(self, *, progress: bool) -> InterventionResult:
        """Read all prompts, and compare scores, probe and word counts on the same split."""
        subject, asked = self.subject, self.options
        banks = {**subject.banks, "off": subject.baseline}
        held_out = {label: subject.held_out(bank, asked.n_prompts) for label, bank in banks.items()}
        shown = {label: subject.shown_of(bank, asked.n_defining) for label, bank in banks.items()}
        learned, tested = {}, {}
        with tqdm(total=2 * len(banks), desc="monitor", disable=not progress) as bar:
            for label in banks:
                learned[label] = self.read(shown[label])
                bar.update()
                tested[label] = self.read(held_out[label])
                bar.update()
        rows = [
            row
            for scored in self._scores(learned, tested, shown, held_out)
            for row in self._rows(*scored)
        ]
        return InterventionResult(
            name="monitor", stem="monitor",
            tables={"monitor": pd.DataFrame(rows), "detection": self._detection(learned, tested)},
            metadata={
                "Seed": subject.seed, "TopPercent": asked.top_percent,
                "NumberOfUnits": {label: len(units) for label, units in self.networks.items()},
                "NumberOfPrompts": asked.n_prompts,
                "ProbeSite": self.sites[-1].name,
            },
            notes=notes_of("monitor"), n_shown=2,
        )  # fmt: skip

    def _scores(
        self, learned: Reads, tested: Reads, shown: Shown, held_out: Shown
    ) -> Iterator[tuple[str, str, Sequence[str], Mapping[str, Floats]]]:
        """Score held-out prompts: name, position, classes, and (n_prompts, n_classes) by topic."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        for position, part in POSITIONS.items():
            yield "network", position, self.labels, _means(tested, "scores", part)
        for position, part in POSITIONS.items():
            x, unseen = (_means(reads, "stream", part) for reads in (learned, tested))
            y = [name for name, reads in learned.items() for _ in reads]
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
            probe.fit(np.concatenate([*x.values()]), y)
            p = {name: probe.predict_proba(streams) for name, streams in unseen.items()}
            yield "linear probe", position, list(probe.classes_), p
        texts = [(prompt.text, name) for name, prompts in shown.items() for prompt in prompts]
        words = text_classifier(*zip(*texts, strict=True))
        p = {
            name: words.predict_proba([prompt.text for prompt in prompts])
            for name, prompts in held_out.items()
        }
        yield "word counts", "prompt", list(words.classes_), p

    def _rows(
        self, score: str, position: str, classes: Sequence[str], scores: Mapping[str, Floats]
    ) -> list[dict[str, Any]]:
        """Compare scores (n_prompts, n_classes) of each topic with those of off and of others."""
        rows = []
        for label in self.labels:
            column = classes.index(label)
            own = {name: values[:, column] for name, values in scores.items()}
            others = [values for name, values in own.items() if name not in (label, "off")]
            row = {"topic": label, "score": score, "position": position, "n": own[label].size}
            for name, negatives in (("off", [own["off"]]), ("others", others)):
                area, low, high = roc_area(own[label], np.concatenate([np.zeros(0), *negatives]))
                row |= {f"auroc_{name}": area, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return rows

    def _detection(self, learned: Reads, tested: Reads) -> pd.DataFrame:
        """Count detections after some tokens of reading, by the mean score so far."""
        rows = []
        for (column, label), n_read in product(enumerate(self.labels), READ):
            read = partial(_first, n_read)
            known, unseen = (
                {name: means[:, column] for name, means in _means(reads, "scores", read).items()}
                for reads in (learned, tested)
            )
            detected = unseen.pop(label)
            del known[label]
            threshold = float(np.quantile(np.concatenate([*known.values()]), 1 - FALSE_POSITIVES))
            false = np.concatenate([*unseen.values()]) > threshold
            rows.append((label, n_read, threshold, (detected > threshold).mean(), false.mean()))
        names = ["topic", "tokens", "threshold", "detected", "false_positives"]
        return pd.DataFrame(rows, columns=names)

    def write_series(self, analysis_dir: Path, *, progress: bool) -> None:
        """Write the scores of every run of the dataset, a row for each volume."""
        dataset = self.subject.dataset
        everything = np.arange(dataset.space.n_units)
        defining = self.subject.effects.provenance.participants
        described = {
            label: {"Description": f"Mean z of {len(units)} units of its network"}
            for label, units in self.networks.items()
        }
        for run in tqdm(dataset.runs, desc="time series", disable=not progress):
            scores = self.score(dataset.values(run), everything)
            folder = analysis_dir / run.bold.relative_to(dataset.path).parent
            folder.mkdir(parents=True, exist_ok=True)
            table = folder / f"{run.name}_desc-monitor_timeseries.tsv"
            write_table(table, pd.DataFrame(scores, columns=list(self.networks)))
            content: dict[str, Any] = {
                "Description": "Mean activity of each topic's network, in calibration standard "
                "deviations, at every volume. No safety gate.",
                "SamplingFrequency": 1 / dataset.t_r(run),
                "StartTime": 0.0,
                "SpaceFingerprint": dataset.space.fingerprint(),
                **described,
            }
            if run.participant_label in defining:
                content["CircularityCaution"] = (
                    "CIRCULAR, no evidence: this participant's runs are among those that defined "
                    "the networks"
                )
            write_json(table.with_suffix(".json"), content)
