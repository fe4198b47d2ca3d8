"""A study of lesions: the networks, the edits, and what is measured under each."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.inference.provenance import Provenance
from llm2bids.intervention.answers import Answered, measure, text_sets
from llm2bids.intervention.edit import Method, identity, method_values
from llm2bids.intervention.lesion_tables import OFF, Measured, lesion_result
from llm2bids.intervention.results import InterventionResult
from llm2bids.intervention.subject import Subject
from llm2bids.intervention.units import site_mask
from llm2bids.model.edit import Edit, check_weights, grouped, load_edit
from llm2bids.space.space import Space
from llm2bids.space.stat_map import select_units

if TYPE_CHECKING:
    from llm2bids.intervention.lesion import LesionOptions
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.units import Site

log = logging.getLogger(__name__)

LesionMethod = Literal["mean", "resample", "zero"]
# What units of a lesion are set to.
METHODS: tuple[LesionMethod, ...] = get_args(LesionMethod)

# Dice coefficient of two networks at the main dose from which on topics count as related.
RELATED = 1 / 3

# Units of like activation, among which one is drawn for each unit of the network.
_NEAREST = 20

Units = npt.NDArray[np.intp]

# Held-out prompts with the intact model's answers, by topic or `OFF`.
TextSets = Mapping[str, Answered]

# What is measured: in words, the lesions that it is of, the edit, texts and model.
Job = tuple[str, list[Measured], Edit | None, TextSets, "LoadedModel"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """All that lesions of a model are made from."""

    subject: Subject
    options: "LesionOptions"

    @cached_property
    def inside(self) -> Units:
        """Units that may be lesioned, in recording order."""
        space = self.subject.dataset.space
        return np.flatnonzero(site_mask(space, self.options.sites) & self.subject.effects.mask)

    @cached_property
    def maps(self) -> npt.NDArray[np.float64]:
        """Effects of `inside`, (n_participants, n_topics, n_inside)."""
        effects = self.subject.effects
        labels = [condition.label for condition in effects.conditions]
        columns = [labels.index(topic) for topic in self.subject.banks]
        within = np.searchsorted(np.flatnonzero(effects.mask), self.inside)
        return effects.values[:, columns][:, :, within].astype(np.float64)

    def network(self, values: npt.NDArray[np.float64], dose: float) -> Units:
        """Choose the units of `inside` with the largest values (n_inside,)."""
        return np.asarray(self.inside[select_units(values, top_percent=dose)])

    @cached_property
    def networks(self) -> dict[tuple[str, float], Units]:
        """Units of each topic at each dose."""
        mean = dict(zip(self.subject.banks, self.maps.mean(axis=0), strict=True))
        doses = sorted({*self.options.doses, self.main_dose})
        return {(topic, dose): self.network(mean[topic], dose) for topic in mean for dose in doses}

    @property
    def main_dose(self) -> float:
        """The dose of the controls: 1 %, or the middle one where that is not asked for."""
        doses = sorted(self.options.doses)
        return 1.0 if 1.0 in doses else doses[len(doses) // 2]

    @cached_property
    def _set_to(self) -> dict[str, tuple[npt.NDArray[np.float32], Provenance]]:
        """What every unit of the space is set to by methods that were asked for."""
        return {}

    def edit(
        self, units: Units, label: str, criterion: str = "", *, method: str | None = None
    ) -> Edit:
        """Make the lesion of some units."""
        method, dataset = method or self.options.method, self.subject.dataset
        if method not in self._set_to:
            every = np.arange(dataset.space.n_units)
            self._set_to[method] = method_values(
                dataset, cast(Method, method), every, seed=self.subject.seed
            )
        values, shown = self._set_to[method]
        return Edit(
            kind="set",
            method=method,
            label=label,
            parts=grouped(dataset.space.sites, units, values[..., units]),
            source=f"group effect map of {label}",
            criterion=criterion,
            **identity(dataset.space, self.subject.effects.provenance | shown),
        )

    @cached_property
    def edits(self) -> dict[tuple[str, float], Edit]:
        """The lesions, by label and dose: of the networks asked for, or of the edit files."""
        asked, made = self.options, dict[tuple[str, float], Edit]()
        topics = self.subject.choose(asked.task_labels)
        for file in asked.edit_files:
            edit = load_edit(file)
            check_weights(self.subject.loaded, edit)
            share = 100 * edit.n_units / self.subject.dataset.space.n_units
            if (edit.label, share) in made:
                raise UsageError(f"--edit {file}: a second edit {edit.label} of as many units")
            made[edit.label, share] = edit
        for topic, dose in () if asked.edit_files else product(topics, asked.doses):
            criterion = f"top {dose:g} % |effect| of {self.inside.size:,} units"
            made[topic, float(dose)] = self.edit(self.networks[topic, dose], topic, criterion)
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

    def run(self, *, progress: bool) -> InterventionResult:
        """Measure every lesion, and its controls."""
        from llm2bids.model.edit_hooks import applied

        _ = self.edits, self.sites  # refuse first what costs least to find
        sets = text_sets(
            self.subject, {**self.subject.banks, OFF: self.subject.baseline},
            n_prompts=self.options.n_prompts, n_answer_tokens=self.options.n_answer_tokens,
            used=frozenset[str]().union(*(edit.prompts for edit in self.edits.values())),
        )  # fmt: skip
        measured = []
        total = self._n_texts(len(sets))
        with tqdm(
            total=total, unit="text", disable=not progress, file=sys.stderr, dynamic_ncols=True
        ) as bar:
            for words, lesions, edit, texts, loaded in self._jobs(sets):
                bar.set_description(words)
                with nullcontext() if edit is None else applied(loaded.model, edit, self.sites):
                    nll = measure(loaded, texts, on_text=bar.update)
                measured += [replace(lesion, nll=nll) for lesion in lesions]
        return lesion_result(
            measured,
            related=self.related,
            prompts={label: [p.prompt_id for p in texts.prompts] for label, texts in sets.items()},
            seed=self.subject.seed,
            metadata=self._metadata(),
            edits=self.edits,
        )

    def _jobs(self, sets: TextSets) -> Iterator[Job]:
        """List all that is measured, one after the other."""
        loaded = self.subject.loaded
        yield "intact model", [Measured(kind="intact")], None, sets, loaded
        for (label, dose), edit in self.edits.items():
            lesion = Measured(label, dose, self.own(label), n_units=edit.n_units)
            yield f"lesion of {label}, {dose:.3g} %", [lesion], edit, sets, loaded
        if self.options.n_draws:
            yield from self._matched(sets)
        if not self.options.edit_files:
            yield from self._shuffled(sets)
        if self.options.random_weights:
            yield from self._untrained(sets)

    def _matched(self, sets: TextSets) -> Iterator[Job]:
        """Lesion random units in place of the networks'."""
        from llm2bids.model.read import mean_activation

        space, loaded = self.subject.dataset.space, self.subject.loaded
        magnitude: dict[str, npt.NDArray[np.float64]] = {}
        sites = tuple(self.sites.values())
        where = np.concatenate([np.r_[space.site_slices[site.name]] for site in sites])
        for (label, dose), edit in self.edits.items():
            own = self.own(label)
            if edit.kind != "set" or edit.method not in METHODS:
                log.warning("no random draws for %s: it is no lesion", edit)
                continue
            if own not in magnitude:
                magnitude[own] = np.zeros(space.n_units)
                magnitude[own][where] = mean_activation(
                    loaded, sets[own].whole_texts(), sites, of=np.abs
                )
            units = edited_units(edit, space)
            for draw in range(self.options.n_draws):
                rng = np.random.default_rng([self.subject.seed, draw, *label.encode()])
                drawn = matched_units(units, magnitude[own], space, rng)
                ratio = float(magnitude[own][drawn].mean() / magnitude[own][units].mean())
                lesion = Measured(
                    label, dose, own, kind="matched", draw=draw, activation_ratio=ratio
                )
                other = self.edit(drawn, label, method=edit.method)
                words = f"random units for {label}, {dose:.3g} %"
                yield words, [lesion], other, {own: sets[own], OFF: sets[OFF]}, loaded

    def _shuffled(self, sets: TextSets) -> Iterator[Job]:
        """Lesion networks of which each participant gives the map of a random topic."""
        n_participants, n_topics, _ = self.maps.shape
        for draw in range(self.options.n_shuffled):
            rng = np.random.default_rng([self.subject.seed, 1, draw])
            columns = rng.integers(n_topics, size=n_participants)
            mean = self.maps[np.arange(n_participants), columns].mean(axis=0)
            edit = self.edit(self.network(mean, self.main_dose), "shuffled")
            lesions = [
                Measured(topic, self.main_dose, topic, kind="shared component", draw=draw)
                for topic in dict.fromkeys(label for label, _ in self.edits)
            ]
            yield "shuffled tasks", lesions, edit, sets, self.subject.loaded

    def _untrained(self, sets: TextSets) -> Iterator[Job]:
        """Lesion the same units of the architecture with random weights, at its own means."""
        from llm2bids.model.read import mean_activation

        words, loaded, sites = "random weights", self.subject.untrained(), self.sites
        stops = np.cumsum([site.width for site in sites.values()])[:-1]
        means = np.split(
            mean_activation(loaded, sets[OFF].whole_texts(), tuple(sites.values())), stops
        )
        mean = dict(zip(sites, means, strict=True))
        yield words, [Measured(kind="untrained intact")], None, sets, loaded
        for (label, dose), edit in self.edits.items():
            if dose != self.main_dose and not self.options.edit_files:
                continue
            if edit.kind == "set" and edit.method != "zero":
                parts = tuple(
                    replace(part, values=mean[part.site.name][part.units].astype(np.float32))
                    for part in edit.parts
                )
                edit = replace(edit, parts=parts)
            own, n_units = self.own(label), edit.n_units
            lesion = Measured(label, dose, own, n_units=n_units, kind="untrained")
            yield words, [lesion], edit, sets, loaded

    @cached_property
    def related(self) -> dict[str, tuple[str, ...]]:
        """Topics whose networks share many units, by topic."""
        return related_topics({t: self.networks[t, self.main_dose] for t in self.subject.banks})

    def _n_texts(self, n_sets: int) -> int:
        """Count the texts that are going to be measured."""
        asked, n_lesions = self.options, len(self.edits)
        n_main = n_lesions if asked.edit_files else len({label for label, _ in self.edits})
        n_full = 1 + n_lesions + (0 if asked.edit_files else asked.n_shuffled)
        n_full += (1 + n_main) * asked.random_weights
        return asked.n_prompts * (n_full * n_sets + 2 * asked.n_draws * n_lesions)

    def _metadata(self) -> dict[str, Any]:
        asked, space, effects = self.options, self.subject.dataset.space, self.subject.effects
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
            "Participants": list(effects.participants),
            "DefiningPrompts": len(effects.provenance.prompts),
        }


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


def edited_units(edit: Edit, space: Space) -> Units:
    """Give the units of an edit by their numbers in its space, (n_units,)."""
    slices = space.site_slices
    if unknown := [site.name for site in edit.sites if site.name not in slices]:
        raise InterventionError(f"edit {edit.label}: site {unknown[0]} is not in {space.label}")
    units = [slices[part.site.name].start + part.units for part in edit.parts]
    return np.concatenate(units).astype(np.intp)


def matched_units(
    units: Units, magnitude: npt.NDArray[np.float64], space: Space, rng: np.random.Generator
) -> Units:
    """Draw units (n,) outside `units` (n,), matched by site and `magnitude` (n_units,)."""
    logs, drawn = np.log(magnitude + 1e-12), []
    for name, where in space.site_slices.items():
        every = np.arange(where.start, where.stop)
        inside = units[np.isin(units, every)]
        left = np.setdiff1d(every, inside)
        if len(left) < len(inside):
            raise InterventionError(
                f"site {name}: {len(inside)} of its {len(every)} units are in the network, and "
                f"{len(left)} are left to draw as many from; lower the dose, or take no random "
                "draws (--draws 0)"
            )
        for unit in rng.permutation(inside):
            distance = np.abs(logs[left] - logs[unit])
            pick = rng.choice(np.argsort(distance, kind="stable")[:_NEAREST])
            drawn.append(left[pick])
            left = np.delete(left, pick)
    return np.array(drawn, dtype=np.intp)
