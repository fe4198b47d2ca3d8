"""Small datasets: synthetic recordings in which tasks move known units.

``FOSSILS.write_dataset(path)`` writes one. The models that tests record are in `tiny_models`.
"""

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm2bids.dataset.write import DatasetWriter
from llm2bids.model.units import Site
from llm2bids.paradigm.design import RunDesign, Trial
from llm2bids.paradigm.task import Context, Paradigm, Prompt, Sampling, Task
from llm2bids.recording.calibration import COUNTS_PER_SD, Calibration
from llm2bids.recording.record import Recording
from llm2bids.space.arrange import build_space
from llm2bids.space.image import SeriesEncoder
from llm2bids.space.space import Space

PROMPTS = (
    "The",
    "The senate of the old republic voted on the new law, and then the fossil of a reptile was",
    "A scan of the chest",
    "Potsherds and coins",
    "On Sunday we bake bread, walk the dog and",
    "x",
    "Under the microscope the tissue shows cells",
)
"""Prompts of very different length, 7 of them."""


def make_design(
    texts: Sequence[str] = PROMPTS,
    *,
    tokens_per_prompt: int = 5,
    seed: int = 11,
    context: Context = "fresh",
    sampling: Sampling | None = None,
    on: Sequence[int] = (2, 3),
    per_block: int = 2,
) -> RunDesign:
    """One run; trials of the blocks in `on` are of type "fossils"."""
    trials = tuple(
        Trial(
            prompt=Prompt(prompt_id=f"p{index}", condition="c", topic="", text=text),
            trial_type="fossils" if index // per_block in on else None,
            block=index // per_block,
        )
        for index, text in enumerate(texts)
    )
    return RunDesign(
        participant_label="01",
        task="fossils",
        run=None,
        trials=trials,
        tokens_per_prompt=tokens_per_prompt,
        context=context,
        sampling=sampling or Sampling(),
        seed=seed,
    )


N_BANK = 400
"""Prompts of a bank, enough for six participants who share none."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A small dataset: sites, tasks (off, on, off), and the unit that answers to each task."""

    name: str
    space_label: str
    sites: tuple[Site, ...]
    planted: dict[str, int]
    baseline: str
    per_block: int
    tokens_per_prompt: int
    n_participants: int
    effect: float
    constant_unit: int | None = None
    counts_per_sd: int = COUNTS_PER_SD
    in_slices: bool = False  # the layout of earlier versions
    t_r: float = 0.25

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.planted)

    @property
    def n_units(self) -> int:
        return sum(site.width for site in self.sites)

    @property
    def paradigm(self) -> Paradigm:
        return Paradigm(
            name=self.name,
            description="Off, on, off.",
            order="off_on_off",
            tasks=tuple(Task(label=task, conditions=((task, task),)) for task in self.tasks),
            baseline=self.baseline,
            prompts_per_block=self.per_block,
            tokens_per_prompt=self.tokens_per_prompt,
            source=self._source,
        )

    @property
    def _source(self) -> str:
        tasks = "\n".join(f"{task} = '{task}'" for task in self.tasks)
        return (
            f"description = 'Off, on, off.'\norder = 'off_on_off'\nbaseline = '{self.baseline}'\n"
            f"prompts_per_block = {self.per_block}\ntokens_per_prompt = {self.tokens_per_prompt}\n"
            f"[tasks]\n{tasks}\n"
        )

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "revision": None,
            "weights_sha256": "ab" * 32,
            "sites": [site.name for site in self.sites],
            "paradigm": self.name,
            "seed": 7,
            "t_r": self.t_r,
            "dtype": "float32",
            "device": "cpu",
            "volume_dtype": "int16",
            "keep_first": False,
            "hrf_model": None,
            "compress": True,
        }

    @cached_property
    def banks(self) -> dict[str, list[Prompt]]:
        return {
            bank: [
                Prompt(
                    prompt_id=f"{bank}{i:03d}",
                    condition=bank,
                    topic="a topic",
                    text=f'Say "{bank}"\n{i}',
                )
                for i in range(N_BANK)
            ]
            for bank in (self.baseline, *self.tasks)
        }

    def make_space(self, weights_sha256: str = "ab" * 32) -> Space:
        space = build_space(
            self.sites,
            label=self.space_label,
            model_name=self.name,
            weights_sha256=weights_sha256,
        )
        return in_slices(space) if self.in_slices else space

    def make_calibration(self) -> Calibration:
        rng = np.random.default_rng(1)
        sd = rng.uniform(0.5, 2, self.n_units).astype(np.float32)
        if self.constant_unit is not None:
            sd[self.constant_unit] = 0
        return Calibration(
            mean=rng.normal(0, 3, self.n_units).astype(np.float32),
            sd=sd,
            prompt_ids=(f"{self.baseline}{N_BANK - 1}",),
            n_tokens=40,
            counts_per_sd=self.counts_per_sd,
        )

    def make_design(
        self, participant: int = 1, task: str | None = None, run: int | None = None, **changes: Any
    ) -> RunDesign:
        """One run; no prompt is in another one."""
        task = task or self.tasks[0]
        number = (participant - 1) * len(self.tasks) + self.tasks.index(task)
        number = 2 * number + (run or 1) - 1  # at most two runs of a task
        trials = []
        for block in range(3):
            on = block == 1
            first = number * self.per_block if on else (2 * number + block // 2) * self.per_block
            prompts = self.banks[task if on else self.baseline][first : first + self.per_block]
            assert len(prompts) == self.per_block
            trials += [
                Trial(prompt=prompt, trial_type=task if on else None, block=block)
                for prompt in prompts
            ]
        design = RunDesign(
            participant_label=f"{participant:02d}",
            task=task,
            run=run,
            trials=tuple(trials),
            tokens_per_prompt=self.tokens_per_prompt,
            context="fresh",
            sampling=Sampling(),
            seed=participant * 100 + len(task) * 10 + (run or 0),
        )
        return replace(design, **changes)

    def make_recording(self, design: RunDesign, *, seed: int = 0) -> Recording:
        """Noise; the planted unit is higher by `effect` sd while its task is on."""
        rng = np.random.default_rng([seed, design.seed])
        calibration = self.make_calibration()
        on = np.repeat([t.trial_type is not None for t in design.trials], design.tokens_per_prompt)
        values = rng.normal(0, 1, (design.n_volumes, self.n_units)).astype(np.float32)
        values[on, self.planted[design.task]] += self.effect
        values = values * calibration.scale + calibration.mean
        if self.constant_unit is not None:
            values[:, self.constant_unit] = calibration.mean[self.constant_unit]
        return Recording(
            design=design,
            sites=self.sites,
            values=values.astype(np.float32),
            tokens=make_tokens(design, rng),
            provenance={
                "dtype": "float32",
                "device": "cpu",
                "source": "/home/ada/tiny-model",
                "seconds": float(rng.uniform()),
                "end_of_text_suppressed": True,
                "versions": {"torch": "2"},
            },
        )

    def create(
        self, path: Path, *, n_runs: int = 1, weights_sha256: str = "ab" * 32, **settings: Any
    ) -> DatasetWriter:
        """Begin a dataset, with these settings in place of its own."""
        rng = np.random.default_rng(2)
        return DatasetWriter.create(
            path,
            space=self.make_space(weights_sha256),
            calibration=self.make_calibration(),
            paradigm=replace(self.paradigm, n_runs=n_runs),
            settings={**self.settings, "weights_sha256": weights_sha256, **settings},
            weight_norms=rng.uniform(0.1, 3, self.n_units).astype(np.float32),
            banks=self.banks,
        )

    def write_dataset(
        self,
        path: Path,
        *,
        n_participants: int | None = None,
        n_runs: int = 1,
        without: Collection[tuple[int, str]] = (),
        **changes: Any,
    ) -> Path:
        """Write all runs but those of the participants and tasks in `without`."""
        with self.create(path, n_runs=n_runs, **changes) as writer:
            for participant in range(1, (n_participants or self.n_participants) + 1):
                for task in self.tasks:
                    for run in [None] if n_runs == 1 else range(1, n_runs + 1):
                        if (participant, task) not in without:
                            design = self.make_design(participant, task, run)
                            writer.write_run(self.make_recording(design), t_r=self.t_r)
                writer.finish_participant(f"{participant:02d}")
        return path


def in_slices(space: Space) -> Space:
    """Lay units out as earlier versions did: a layer a slice, panels side by side, in three white.

    Units fill a near square, heads a row of rectangles.
    """
    voxels, levels = [], {}
    for site in space.sites:
        level = levels.setdefault(site.layer if site.layer is not None else site.name, len(levels))
        size = site.head_size or site.width
        columns = math.isqrt(size - 1) + 1 if not site.head_size else site.head_size // 2
        head, unit = np.divmod(np.arange(site.width), size)
        corner = max([0, *(v[:, 0].max() + 2 for v, k in voxels if k == level)])
        x = corner + head * (columns if site.head_size else 0) + unit % columns
        voxels.append((np.stack([x, unit // columns, np.full(site.width, 2 * level)], 1), level))
    places = np.concatenate([v for v, _ in voxels]).astype(np.int32) + 5
    shape = tuple((places.max(axis=0) + 6).tolist())
    tissue = np.zeros(shape, dtype=np.uint8)
    tissue[2:-2, 2:-2, 2:-2] = 1
    tissue[tuple(places.T)] = 2
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -(np.array(shape) - 1.0)
    return replace(space, shape=shape, voxels=places, tissue=tissue, affine=affine)


def make_tokens(design: RunDesign, rng: np.random.Generator) -> pd.DataFrame:
    """Tokens with a first one that has no volume; surprisal follows the block, as it may."""
    rows = []
    for index, trial in enumerate(design.trials):
        for position in range(design.tokens_per_prompt + 1):
            volume = index * design.tokens_per_prompt + position - 1
            rows.append(
                {
                    "volume": pd.NA if position == 0 else volume,
                    "trial": index,
                    "block": trial.block,
                    "trial_type": pd.NA if trial.trial_type is None else trial.trial_type,
                    "prompt_id": trial.prompt.prompt_id,
                    "position": position,
                    "token_id": int(rng.integers(0, 300)),
                    "token": ["a", " b", "\n", "\t", '"', "n/a", "é", "\\", ""][rng.integers(9)],
                    "surprisal": float(rng.gamma(2) + 6 * (trial.trial_type is not None)),
                    "entropy": float(rng.gamma(3)),
                    "prompt_tokens": 9 + index % 3,
                }
            )
    table = pd.DataFrame(rows)
    return table.astype({"volume": "Int64", "trial_type": "string"})


def _layer(layer: int, role: str, **sizes: int) -> Site:
    return Site(name=f"model.layers.{layer}.{role}", layer=layer, role=role, **sizes)


_HEADS = {"width": 24, "n_heads": 4, "head_size": 6}

FOSSILS = Experiment(
    name="tiny",
    space_label="Tiny",
    sites=(
        Site(name="model.embed", layer=None, role="model.embed", width=11),
        _layer(0, "self_attn.q", **_HEADS),
        _layer(0, "mlp", width=37),
        _layer(1, "self_attn.q", **_HEADS),
        _layer(1, "mlp", width=37),
    ),
    planted={"fossils": 40, "votes": 40},
    baseline="everyday",
    per_block=8,
    tokens_per_prompt=5,
    n_participants=2,
    effect=3.0,
    constant_unit=3,
)
"""Two participants and two tasks, with a unit that never changes: what is on disk."""

DRINKS = Experiment(
    name="drinks",
    space_label="Drinks",
    sites=(_layer(0, "attn", **_HEADS), _layer(0, "mlp", width=37), _layer(1, "mlp", width=37)),
    planted={"tea": 5, "cocoa": 30, "milk": 70},
    baseline="off",
    per_block=4,
    tokens_per_prompt=3,
    n_participants=4,
    effect=4.0,
)
"""Four participants and three tasks that each move a unit of their own: what is found."""


def contents(path: Path) -> dict[str, str]:
    """Hash of every file of a dataset, without the hidden folder and what a command cites."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and not {".llm2bids", "logs"} & set(file.relative_to(path).parts)
    }


def encode(values, space, calibration, *, seed, dtype="int16"):
    """Turn values (n_tokens, n_units) into volumes (n_tokens, n_z, n_y, n_x) in one piece."""
    encoder = SeriesEncoder(values, space, calibration, seed=seed, dtype=dtype)
    (volumes,) = encoder.blocks(len(values))
    return volumes, encoder


def build(sites, label="Tiny"):
    """Make a space of sites, of a model without weights."""
    return build_space(sites, label=label, model_name="tiny", weights_sha256="0" * 64)


def one_site(width, name="a", **heads):
    """Make the space of one site outside the layers."""
    return build([Site(name=name, layer=None, role=name, width=width, **heads)])


def plain_calibration(space):
    """Make the calibration of means 0 and standard deviations 1."""
    zeros = np.zeros(space.n_units, dtype=np.float32)
    return Calibration(mean=zeros, sd=zeros + 1, prompt_ids=(), n_tokens=9)
