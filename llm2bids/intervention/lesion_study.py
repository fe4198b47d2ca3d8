"""A study of lesions: the networks, the edits, and what is measured under each."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.inference.effects import Effects
from llm2bids.inference.provenance import Provenance
from llm2bids.intervention.edit import (
    Method,
    identity,
    levels,
    method_values,
)
from llm2bids.intervention.evaluation import TextSet, measure, text_sets
from llm2bids.intervention.lesion_tables import OFF, Drawn, Measured, lesion_result
from llm2bids.intervention.matched import matched_units
from llm2bids.intervention.results import InterventionResult
from llm2bids.intervention.subject import Subject, Topics
from llm2bids.intervention.units import default_sites, site_mask
from llm2bids.model.edit import Edit, check_weights, grouped, load_edit
from llm2bids.space.stat_map import select_units

if TYPE_CHECKING:
    from llm2bids.intervention.lesion import LesionOptions
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.units import Site

log = logging.getLogger(__name__)

LesionMethod = Literal["mean", "resample", "zero"]
METHODS: tuple[LesionMethod, ...] = get_args(LesionMethod)
"""What units of a lesion are set to."""

Units = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """All that lesions of a model are made from."""

    topics: Topics
    options: "LesionOptions"

    @property
    def subject(self) -> Subject:
        """Dataset and model."""
        return self.topics.subject

    @property
    def effects(self) -> Effects:
        """Effects of the participants, which define the networks."""
        return self.topics.effects

    @cached_property
    def inside(self) -> Units:
        """Units that may be lesioned, in recording order."""
        space = self.subject.dataset.space
        patterns = default_sites(space.sites) if self.options.sites is None else self.options.sites
        return np.flatnonzero(site_mask(space, patterns) & self.effects.mask)

    @cached_property
    def maps(self) -> npt.NDArray[np.float64]:
        """Effects of `inside`, (n_participants, n_topics, n_inside)."""
        labels = [condition.label for condition in self.effects.conditions]
        columns = [labels.index(topic) for topic in self.topics.banks]
        within = np.searchsorted(np.flatnonzero(self.effects.mask), self.inside)
        return self.effects.values[:, columns][:, :, within].astype(np.float64)

    def network(self, values: npt.NDArray[np.float64], dose: float) -> Units:
        """Choose the units of `inside` with the largest values (n_inside,)."""
        return np.asarray(self.inside[select_units(values, top_percent=dose)])

    @cached_property
    def networks(self) -> dict[tuple[str, float], Units]:
        """Units of each topic at each dose."""
        doses = sorted({*self.options.doses, self.main_dose})
        mean = self.maps.mean(axis=0)
        return {
            (topic, dose): self.network(mean[row], dose)
            for row, topic in enumerate(self.topics.banks)
            for dose in doses
        }

    @property
    def main_dose(self) -> float:
        """The dose of the controls: 1 %, or the middle one where that is not asked for."""
        doses = sorted(self.options.doses)
        return 1.0 if 1.0 in doses else doses[len(doses) // 2]

    def _values(self, method: str) -> tuple[npt.NDArray[np.float32], Provenance]:
        """Say what every unit of the space is set to, (n_units,) or (n_rows, n_units)."""
        if method not in self._set_to:
            every = np.arange(self.subject.dataset.space.n_units)
            self._set_to[method] = method_values(
                self.subject.dataset,
                cast(Method, method),
                every,
                seed=self.subject.seed,
            )
        return self._set_to[method]

    @cached_property
    def _set_to(self) -> dict[str, tuple[npt.NDArray[np.float32], Provenance]]:
        return {}

    def edit(
        self, units: Units, label: str, criterion: str = "", *, method: str | None = None
    ) -> Edit:
        """Make the lesion of some units."""
        method = method or self.options.method
        values, shown = self._values(method)
        space = self.subject.dataset.space
        return Edit(
            kind="set",
            method=method,
            label=label,
            parts=grouped(space.sites, units, values[..., units]),
            **identity(space),
            source=f"group effect map of {label}",
            criterion=criterion,
            made_from=levels(self.effects.provenance | shown),
        )

    @cached_property
    def edits(self) -> dict[tuple[str, float], Edit]:
        """The lesions: of the networks asked for, or of the edit files."""
        if self.options.edit_files:
            return self._given_edits()
        wanted = self.topics.choose(self.options.task_labels)
        made = {}
        for topic in wanted:
            for dose in self.options.doses:
                criterion = f"top {dose:g} % |effect| of {self.inside.size:,} units"
                made[topic, float(dose)] = self.edit(self.networks[topic, dose], topic, criterion)
        return made

    def _given_edits(self) -> dict[tuple[str, float], Edit]:
        self.topics.choose(self.options.task_labels)
        made: dict[tuple[str, float], Edit] = {}
        for file in self.options.edit_files:
            edit = load_edit(file)
            check_weights(self.subject.loaded, edit)
            share = 100 * edit.n_units / self.subject.dataset.space.n_units
            if (edit.label, share) in made:
                raise UsageError(f"--edit {file}: a second edit {edit.label} of as many units")
            made[edit.label, share] = edit
        return made

    def own(self, label: str) -> str:
        """Name the topic that a lesion is held to."""
        return self.options.task_labels[0] if self.options.edit_files else label

    @cached_property
    def sites(self) -> "dict[str, Site]":
        """The sites of all lesions in the model, with their axes."""
        from llm2bids.model.edit_hooks import editable_sites

        known: dict[str, Site] = {}
        for edit in [*self.edits.values(), self.edit(self.inside, "all")]:
            known |= editable_sites(self.subject.loaded, edit)
        return known

    @contextmanager
    def applied(self, edit: Edit, loaded: "LoadedModel | None" = None) -> Iterator[None]:
        """Lesion the model, or another of its architecture."""
        from llm2bids.model.edit_hooks import applied

        with applied((loaded or self.subject.loaded).model, edit, self.sites):
            yield

    def run(self, *, progress: bool) -> InterventionResult:
        """Measure every lesion, and its controls."""
        _ = self.edits, self.sites  # refuse first what costs least to find
        banks = {**self.topics.banks, OFF: self.subject.baseline}
        used = frozenset[str]().union(*(edit.prompts for edit in self.edits.values()))
        sets = text_sets(
            self.subject, banks, n_prompts=self.options.n_prompts,
            n_answer_tokens=self.options.n_answer_tokens, used=used,
        )  # fmt: skip
        with _bar(self._n_texts(len(sets)), progress) as bar:
            return self._measured(sets, bar)

    def _measured(self, sets: Mapping[str, TextSet], bar: "tqdm[Any]") -> InterventionResult:
        loaded, every = self.subject.loaded, list(sets.values())
        bar.set_description("intact model")
        baseline = measure(loaded, every, on_text=bar.update)
        lesions = []
        for (label, dose), edit in self.edits.items():
            bar.set_description(f"lesion of {label}, {dose:.3g} %")
            with self.applied(edit):
                changed = measure(loaded, every, on_text=bar.update)
            lesions.append(Measured(label, dose, edit.n_units, self.own(label), changed))
        return lesion_result(
            baseline,
            lesions,
            draws=[*self._matched(sets, bar), *self._shuffled(every, bar)],
            untrained=self._untrained(every, bar) if self.options.random_weights else None,
            related=self.related,
            prompts={label: [p.prompt_id for p in texts.prompts] for label, texts in sets.items()},
            seed=self.subject.seed,
            metadata=self._metadata(),
            edits=self.edits,
        )

    def _matched(self, sets: Mapping[str, TextSet], bar: "tqdm[Any]") -> Iterator[Drawn]:
        """Lesion random units in place of the networks'."""
        if not self.options.n_draws:
            return
        from llm2bids.model.likelihood import mean_activation

        space, loaded = self.subject.dataset.space, self.subject.loaded
        magnitude: dict[str, npt.NDArray[np.float64]] = {}
        sites = tuple(self.sites.values())
        where = np.concatenate([np.r_[space.site_slices[site.name]] for site in sites])
        for (label, dose), edit in self.edits.items():
            own = self.own(label)
            if edit.kind != "set" or edit.method not in METHODS:
                log.warning("no random draws for %s: it is no lesion", edit)
                continue
            bar.set_description(f"random units for {label}, {dose:.3g} %")
            if own not in magnitude:
                magnitude[own] = np.zeros(space.n_units)
                magnitude[own][where] = mean_activation(loaded, sets[own].tokens, sites, of=np.abs)
            units = edited_units(edit, space)
            for draw in range(self.options.n_draws):
                rng = np.random.default_rng([self.subject.seed, draw, *label.encode()])
                drawn = matched_units(units, magnitude[own], space, rng)
                with self.applied(self.edit(drawn, label, method=edit.method)):
                    changed = measure(loaded, [sets[own], sets[OFF]], on_text=bar.update)
                ratio = magnitude[own][drawn].mean() / magnitude[own][units].mean()
                yield Drawn("matched", label, dose, draw, own, changed, float(ratio))

    def _shuffled(self, sets: Sequence[TextSet], bar: "tqdm[Any]") -> Iterator[Drawn]:
        """Lesion networks of which each participant gives the map of a random topic."""
        if self.options.edit_files:
            return
        n_participants, n_topics, _ = self.maps.shape
        for draw in range(self.options.n_shuffled):
            bar.set_description("shuffled tasks")
            rng = np.random.default_rng([self.subject.seed, 1, draw])
            columns = rng.integers(n_topics, size=n_participants)
            mean = self.maps[np.arange(n_participants), columns].mean(axis=0)
            with self.applied(self.edit(self.network(mean, self.main_dose), "shuffled")):
                changed = measure(self.subject.loaded, sets, on_text=bar.update)
            for topic in dict.fromkeys(label for label, _ in self.edits):
                yield Drawn("shared component", topic, self.main_dose, draw, topic, changed)

    def _untrained(self, sets: Sequence[TextSet], bar: "tqdm[Any]") -> list[Measured]:
        """Lesion the same units of the architecture with random weights, at its own means."""
        from llm2bids.model.likelihood import mean_activation

        bar.set_description("random weights")
        loaded = self.subject.untrained()
        (off,) = [texts for texts in sets if texts.label == OFF]
        sites = tuple(self.sites.values())
        mean = dict(zip(
            [site.name for site in sites],
            np.split(
                mean_activation(loaded, off.tokens, sites),
                np.cumsum([site.width for site in sites])[:-1],
            ),
            strict=True,
        ))  # fmt: skip
        intact = measure(loaded, sets, on_text=bar.update)
        rows = [Measured("", 0.0, 0, "", intact)]
        for (label, dose), edit in self.edits.items():
            if dose != self.main_dose and not self.options.edit_files:
                continue
            if edit.kind == "set" and edit.method != "zero":
                parts = tuple(
                    replace(part, values=mean[part.site.name][part.units].astype(np.float32))
                    for part in edit.parts
                )
                edit = replace(edit, parts=parts)
            with self.applied(edit, loaded):
                changed = measure(loaded, sets, on_text=bar.update)
            rows.append(Measured(label, dose, edit.n_units, self.own(label), changed))
        return rows

    @cached_property
    def related(self) -> dict[str, tuple[str, ...]]:
        """Topics whose networks share many units, by topic."""
        return related_topics({t: self.networks[t, self.main_dose] for t in self.topics.banks})

    def _n_texts(self, n_sets: int) -> int:
        """Count the texts that are going to be measured."""
        asked, n_lesions = self.options, len(self.edits)
        n_main = n_lesions if asked.edit_files else len({label for label, _ in self.edits})
        n_full = 1 + n_lesions + (0 if asked.edit_files else asked.n_shuffled)
        n_full += (1 + n_main) * asked.random_weights
        return asked.n_prompts * (n_full * n_sets + 2 * asked.n_draws * n_lesions)

    def _metadata(self) -> dict[str, Any]:
        asked, space = self.options, self.subject.dataset.space
        roles = {site.name: site.role for site in space.sites}
        edits = list(self.edits.values())
        return {
            "Model": self.subject.loaded.name,
            "WeightsSHA256": self.subject.loaded.weights_sha256,
            "Space": space.label,
            "SpaceFingerprint": space.fingerprint(),
            "Method": edits[0].method,
            "Roles": sorted({roles[site.name] for edit in edits for site in edit.sites}),
            "Criterion": sorted({edit.criterion for edit in edits}),
            "MainDose": self.main_dose if not asked.edit_files else max(d for _, d in self.edits),
            "NumberOfPrompts": asked.n_prompts,
            "NumberOfAnswerTokens": asked.n_answer_tokens,
            "NumberOfDraws": asked.n_draws,
            "NumberOfShuffled": 0 if asked.edit_files else asked.n_shuffled,
            "Participants": list(self.effects.participants),
            "DefiningPrompts": len(self.effects.provenance.prompts),
        }


RELATED = 1 / 3
"""Dice coefficient of two networks at the main dose from which on topics count as related."""


def related_topics(networks: Mapping[str, Units]) -> dict[str, tuple[str, ...]]:
    """Find for each topic those whose networks share a third of the units or more (Dice)."""
    sets = {topic: set(units.tolist()) for topic, units in networks.items()}
    return {
        topic: tuple(
            other
            for other in sets
            if other != topic
            and 2 * len(sets[topic] & sets[other])
            >= RELATED * (len(sets[topic]) + len(sets[other]))
        )
        for topic in sets
    }


def edited_units(edit: Edit, space: Any) -> Units:
    """Give the units of an edit by their numbers in its space, (n_units,)."""
    unknown = [part.site.name for part in edit.parts if part.site.name not in space.site_slices]
    if unknown:
        raise InterventionError(f"edit {edit.label}: site {unknown[0]} is not in {space.label}")
    return np.concatenate(
        [space.site_slices[part.site.name].start + part.units for part in edit.parts]
    ).astype(np.intp)


def _bar(total: int, progress: bool) -> "tqdm[Any]":
    return tqdm(total=total, unit="text", disable=not progress, file=sys.stderr, dynamic_ncols=True)
