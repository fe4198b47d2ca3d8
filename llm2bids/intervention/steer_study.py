"""One study of steering: the scene that topics share, the search and the report of each topic."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.rates import binomial_interval, mean_interval
from llm2bids.intervention.answers import Answered, answer, answer_nll, replayed_map, text_means
from llm2bids.intervention.directions import (
    DirectionKind,
    Floats,
    Responses,
    at_norm,
    mean_difference,
    random_direction,
    shuffled_difference,
    versus_others,
)
from llm2bids.intervention.edit import vector_edit
from llm2bids.intervention.subject import Subject, Topics
from llm2bids.intervention.text import TextClassifier, distinct_2
from llm2bids.model.edit import Edit
from llm2bids.model.units import Site
from llm2bids.network.similarity import gram_matrix, weighted_correlation
from llm2bids.paradigm.task import Prompt
from llm2bids.space.stat_map import unit_values

if TYPE_CHECKING:
    from llm2bids.intervention.steer import SteerOptions

log = logging.getLogger(__name__)

DEPTHS = (0.4, 0.5)
"""Layers that are searched, as shares of the model's depth."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What all topics share."""

    topics: Topics
    options: "SteerOptions"
    tasks: tuple[str, ...]
    sites: tuple[Site, ...]
    kind: DirectionKind
    held_out: dict[str, tuple[Prompt, ...]]
    responses: Any = None
    classifier: Any = None

    @classmethod
    def prepare(cls, topics: Topics, options: "SteerOptions") -> "Scene":
        """Refuse first what costs least to find: sites, topics, prompts, maps."""
        subject, tasks = topics.subject, topics.choose(options.task_labels)
        kind = options.direction or ("vs-others" if options.minus else "means")
        if options.stat_img is not None and kind != "effect":
            raise UsageError(
                f"--map {options.stat_img} with --direction {kind}: expected --direction effect, "
                "which is the only one that a map gives"
            )
        sites = _residual_sites(subject, options.layers)
        half = options.n_prompts // 2
        banks = dict.fromkeys([subject.baseline, *topics.banks.values()])
        tried = {topics.banks[name] for name in tasks} if options.minus else {subject.baseline}
        held_out = {
            bank: subject.held_out(bank, 2 * half if bank in tried else half) for bank in banks
        }
        return cls(
            topics=topics, options=options, tasks=tasks, sites=sites, kind=kind,
            held_out=held_out,
        )  # fmt: skip

    @property
    def subject(self) -> Subject:
        """Dataset and model."""
        return self.topics.subject

    @property
    def n_steps(self) -> int:
        """Batches of answers: of the banks, of the search, of the report."""
        n_rows = 3 + 2 * self.options.n_controls + (len(self.topics.banks) - 1) * self.options.minus
        searched = 1 + len(self.sites) * len(self.options.strengths)
        return 2 * len(self.held_out) + len(self.tasks) * (searched + n_rows)

    def with_responses(self, bar: Any) -> "Scene":
        """Answer the defining prompts of each bank, and learn and test the classifier."""
        n_tokens, by_bank = self.options.n_tokens, {}
        texts: list[str] = []
        labels: list[str] = []
        tests: list[str] = []
        true: list[str] = []
        half = self.options.n_prompts // 2
        for bank in self.held_out:
            prompts = self.subject.shown_of(bank, self.options.n_defining)
            known = answer(self.subject, prompts, n_tokens=n_tokens)
            # answers alone are often formulas ("The answer is:"): the prompt says the topic
            by_bank[bank] = text_means(self.subject.loaded, known, self.sites)
            words = [prompt.text for prompt in self.subject.shown_of(bank, 100)]
            texts += [*words, *known.texts]
            labels += [bank] * (len(words) + len(prompts))
            bar.update()
            # the half that nothing is chosen on
            unseen = answer(self.subject, self.held_out[bank][-half:], n_tokens=n_tokens)
            tests += unseen.texts
            true += [bank] * len(unseen.texts)
            bar.update()
        responses = Responses(sites=self.sites, by_bank=by_bank, baseline=self.subject.baseline)
        classifier = TextClassifier.fit(texts, labels).tested(tests, true)
        return replace(self, responses=responses, classifier=classifier)

    def direction(self, task: str, site: Site) -> Floats:
        """Give the direction of a topic after a layer, (width,)."""
        bank = self.topics.banks[task]
        if self.kind == "vs-others":
            return versus_others(self.responses, bank, site)
        means = mean_difference(self.responses, bank, site)
        if self.kind == "means":
            return means
        dataset = self.subject.dataset
        part = dataset.space.site_slices[site.name]
        if self.options.stat_img is None:
            effect = self.topics.effect(task)
        else:
            prints = (dataset.fingerprint, dataset.space.fingerprint())
            effect = unit_values(self.options.stat_img, dataset.space, fingerprint=prints)
        effect = effect[part] * dataset.calibration.scale[part]
        return at_norm(np.nan_to_num(effect), float(np.linalg.norm(means)))


class TopicStudy:
    """One topic: the search on one half of the prompts, the report on the other."""

    def __init__(self, scene: Scene, task: str, bar: Any) -> None:
        self.scene, self.task, self.bar = scene, task, bar
        self.subject, self.options, self.topics = scene.subject, scene.options, scene.topics
        self.bank = scene.topics.banks[task]
        prompts = scene.held_out[self.bank if scene.options.minus else scene.subject.baseline]
        half = scene.options.n_prompts // 2
        self.search_prompts, self.report_prompts = prompts[:half], prompts[-half:]
        self.class_index = scene.classifier.classes.index(self.bank)

    def run(self) -> dict[str, Any]:
        """Search, then report."""
        searched, site, strength = self._search()
        rng = np.random.default_rng([self.subject.seed, self.class_index])
        vector = self.scene.direction(self.task, site)
        edit = self._edit(site, vector, strength)
        rows, texts = self._report(site, vector, strength, rng)
        return {"search": searched, "steer": rows, "texts": texts, "edit": edit}

    def _edit(self, site: Site, vector: Floats, strength: float) -> Edit:
        minus = self.options.minus
        made_from = Provenance.of(
            prompts=[
                prompt.prompt_id
                for bank in self.scene.held_out
                for prompt in self.subject.shown_of(bank, self.options.n_defining)
            ]
        )
        return vector_edit(
            self.subject.dataset.space, site.name, vector,
            strength=-strength if minus else strength,
            label=f"{self.task}{'Away' if minus else ''}",
            source=f"direction {self.scene.kind} of {self.task}",
            criterion=f"layer {site.layer}, {'-' if minus else '+'}{strength:g} times",
            made_from=made_from,
        )  # fmt: skip

    def _measure(self, answered: Answered) -> dict[str, Any]:
        p = self.scene.classifier.probabilities(answered.texts)
        self.bar.update()
        return {
            "hits": p.argmax(axis=1) == self.class_index,
            "p": p[:, self.class_index],
            "nll": answer_nll(self.subject.loaded, answered),
            "distinct_2": distinct_2(answered.token_ids),
        }

    def _answer(self, prompts: Sequence[Prompt], edit: Edit | None = None) -> Answered:
        return answer(self.subject, prompts, n_tokens=self.options.n_tokens, edit=edit)

    def _search(self) -> tuple[pd.DataFrame, Site, float]:
        """Try every layer and strength; take the best for the topic that is not too dear."""
        base = self._measure(self._answer(self.search_prompts))
        # intact answers may loop too, and no more is asked of edited ones
        # and answers without their topic are more often formulas, as everyday ones are; loops have
        # less than half
        asked = self.options.min_distinct
        asked = (0.7 if self.options.minus else 0.9) if asked is None else asked
        least = min(asked, float(base["distinct_2"].mean()))
        rows = []
        for site in self.scene.sites:
            vector = self.scene.direction(self.task, site)
            for strength in self.options.strengths:
                edit = self._edit(site, vector, strength)
                measured = self._measure(self._answer(self.search_prompts, edit))
                cost = float((measured["nll"] - base["nll"]).mean())
                distinct = float(measured["distinct_2"].mean())
                allowed = cost <= self.options.max_cost and distinct >= least
                rows.append(
                    (
                        self.task, site.layer, strength, measured["hits"].mean(),
                        measured["p"].mean(), measured["nll"].mean(), cost, distinct, allowed,
                    )
                )  # fmt: skip
        names = ("task", "layer", "strength", "hit", "p", "nll", "cost", "distinct_2", "allowed")
        table = pd.DataFrame(rows, columns=list(names))
        kept = table[table["allowed"]]
        if kept.empty:
            log.warning(
                "%s: no layer and strength costs at most %g nats a token at a distinct-2 of %.2g "
                "or more; the cheapest is taken",
                self.task, self.options.max_cost, least,
            )  # fmt: skip
            best = int(table["cost"].to_numpy().argmin())
        else:
            p = kept["p"].to_numpy() * (-1 if self.options.minus else 1)
            best = int(kept.index.to_numpy()[p.argmax()])
        table = table.assign(chosen=table.index == best)
        site = self.scene.sites[best // len(self.options.strengths)]
        return table, site, float(self.options.strengths[best % len(self.options.strengths)])

    def _report(
        self, site: Site, vector: Floats, strength: float, rng: np.random.Generator
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Measure the direction and its controls on prompts that chose nothing."""
        norm = float(np.linalg.norm(vector))
        tried: list[tuple[str, Answered]] = [("none", self._answer(self.report_prompts))]

        def add(name: str, other: Floats) -> None:
            edit = self._edit(site, other, strength)
            tried.append((name, self._answer(self.report_prompts, edit)))

        add("direction", vector)
        for _ in range(self.options.n_controls):
            add("random", random_direction(site.width, norm, rng))
        for _ in range(self.options.n_controls):
            add("shuffled", shuffled_difference(self.scene.responses, self.bank, site, norm, rng))
        for other in self.topics.banks if self.options.minus else ():
            if other != self.task:
                add("other topic", at_norm(self.scene.direction(other, site), norm))
        if not self.options.minus:
            tried.append(("prompt", self._asked()))
        base = replayed_map(self.subject, tried[0][1])
        rows, texts = [], []
        for name, answered in tried:
            measured = self._measure(answered)
            same_as_base = name == "none"
            identified = (
                ("", float("nan"), float("nan")) if same_as_base else self._identify(answered, base)
            )
            rows.append((name, site.layer, strength, measured, *identified))
            texts.append(self._texts(name, answered, measured))
        return self._table(rows), pd.concat(texts, ignore_index=True)

    def _asked(self) -> Answered:
        """Let the intact model answer prompts that ask for the topic."""
        request = self.options.ask.replace("{topic}", self.task)
        prompts = [
            replace(prompt, text=f"{request} {prompt.text}") for prompt in self.report_prompts
        ]
        return self._answer(prompts)

    def _identify(
        self, answered: Answered, base: npt.NDArray[np.float64]
    ) -> tuple[str, float, float]:
        """Correlate what the text does to the intact model with the topics' mean effect maps."""
        moved = replayed_map(self.subject, answered) - base
        moved /= self.subject.dataset.calibration.scale
        names = list(self.topics.banks)
        maps = [self.topics.effect(name) for name in names]
        gram = gram_matrix(np.stack([moved * self.topics.effects.mask, *maps]))
        eye = np.eye(len(gram))
        r = weighted_correlation(gram, eye[:1], eye[1:])[0]
        own = names.index(self.task)
        return names[int(r.argmax())], float(r[own]), float(np.delete(r, own).max())

    def _texts(self, name: str, answered: Answered, measured: dict[str, Any]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "task": self.task,
                "method": name,
                "prompt_id": [prompt.prompt_id for prompt in answered.prompts],
                "prompt": [_one_line(prompt.text) for prompt in answered.prompts],
                "text": [_one_line(text) for text in answered.texts],
                "classified": self.scene.classifier.predict(answered.texts),
                "p": measured["p"],
                "nll": measured["nll"],
                "distinct_2": measured["distinct_2"],
            }
        )

    def _table(self, rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
        """Join draws of one method, and give intervals over prompts."""
        lines = []
        for name in dict.fromkeys(row[0] for row in rows):
            mine = [row for row in rows if row[0] == name]
            hits = np.concatenate([row[3]["hits"] for row in mine])
            nll = np.mean([row[3]["nll"] for row in mine], axis=0)
            low, high = binomial_interval(int(hits.sum()), hits.size)
            nll_low, nll_high = mean_interval(nll)
            lines.append(
                {
                    "task": self.task, "method": name, "layer": mine[0][1],
                    "strength": mine[0][2], "n": hits.size,
                    "hit": hits.mean(), "hit_low": low, "hit_high": high,
                    "p": np.mean([row[3]["p"] for row in mine]),
                    "nll": nll.mean(), "nll_low": nll_low, "nll_high": nll_high,
                    "distinct_2": np.mean([row[3]["distinct_2"] for row in mine]),
                    "identified": ", ".join(dict.fromkeys(row[4] for row in mine)),
                    "r_own": np.mean([row[5] for row in mine]),
                    "r_other": np.mean([row[6] for row in mine]),
                }
            )  # fmt: skip
        return pd.DataFrame(lines)


def _residual_sites(subject: Subject, layers: Sequence[int]) -> tuple[Site, ...]:
    """Choose the layers whose output is searched."""
    from llm2bids.model.sites import RESIDUAL

    known = {
        site.layer: site
        for site in subject.dataset.space.sites
        if site.role == RESIDUAL and site.layer is not None
    }
    if not known:
        raise InterventionError(
            f"{subject.dataset.path}: its space has no residual stream; record with --sites all "
            "or residual"
        )
    depth = max(known) + 1
    wanted = tuple(dict.fromkeys(layers)) or tuple(
        dict.fromkeys(max(round(share * depth) - 1, 0) for share in DEPTHS)
    )
    if unknown := [layer for layer in wanted if layer not in known]:
        raise UsageError(
            f"--layers {unknown[0]}: the space has the residual stream after layers "
            f"{min(known)} to {max(known)}"
        )
    return tuple(known[layer] for layer in wanted)


def _one_line(text: str) -> str:
    return text.replace("\t", " ").replace("\r", " ").replace("\n", " \N{RETURN SYMBOL} ")
