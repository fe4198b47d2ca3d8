"""A study of steering: directions, the scene that topics share, each one's search and report."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.rates import binomial_interval, mean_interval
from llm2bids.intervention.answers import (
    Answered,
    answer,
    answer_nll,
    distinct_2,
    replayed_map,
    text_classifier,
    text_means,
)
from llm2bids.intervention.edit import vector_edit
from llm2bids.intervention.subject import Subject
from llm2bids.model.edit import Edit
from llm2bids.model.units import Site
from llm2bids.network.similarity import gram_matrix, weighted_correlation
from llm2bids.paradigm.task import Prompt

if TYPE_CHECKING:
    from llm2bids.intervention.steer import SteerOptions

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

# Difference of the means of on and off texts; the map; own mean less that of other topics.
DirectionKind = Literal["means", "effect", "vs-others"]

# Layers that are searched, as shares of the model's depth.
DEPTHS = (0.4, 0.5)


# Mean residual streams of prompts with answers after one layer, (n_prompts, width), by bank.
Responses = Mapping[str, Floats]


def mean_difference(responses: Responses, bank: str, baseline: str) -> Floats:
    """Subtract the mean of the off texts from that of a bank's, (width,)."""
    return np.asarray(responses[bank].mean(axis=0) - responses[baseline].mean(axis=0))


def versus_others(responses: Responses, bank: str, baseline: str) -> Floats:
    """Subtract the mean over the other topics' means from the own topic's, (width,)."""
    means = {name: values.mean(axis=0) for name, values in responses.items() if name != baseline}
    return np.asarray(means.pop(bank) - np.mean([*means.values()], axis=0))


def shuffled_difference(on: Floats, off: Floats, norm: float, rng: np.random.Generator) -> Floats:
    """Take the difference of means of the same texts with on and off shuffled, at a norm."""
    pooled = rng.permutation(np.concatenate([on, off]))
    return at_norm(pooled[: len(on)].mean(axis=0) - pooled[len(on) :].mean(axis=0), norm)


def random_direction(width: int, norm: float, rng: np.random.Generator) -> Floats:
    """Draw a direction evenly from the sphere of a norm, (width,)."""
    return at_norm(rng.standard_normal(width), norm)


def at_norm(vector: npt.NDArray[np.floating], norm: float) -> Floats:
    """Give a direction a norm; one that is 0 stays 0.

    >>> at_norm(np.array([3.0, 4.0]), 10.0).tolist()
    [6.0, 8.0]
    """
    size = float(np.linalg.norm(vector))
    return np.asarray(vector * (norm / size if size else 0.0), dtype=np.float32)


class Scene:
    """What all topics share: layers and prompts, and what prompts of each bank are answered."""

    def __init__(self, subject: Subject, options: "SteerOptions") -> None:
        # refuses first what costs least to find: topics, maps, sites, prompts
        self.subject, self.options = subject, options
        self.tasks = subject.choose(options.task_labels)
        kinds: dict[bool, DirectionKind] = {True: "vs-others", False: "means"}
        self.kind = options.direction or kinds[options.minus]
        if options.stat_img is not None and self.kind != "effect":
            raise UsageError(
                f"--map {options.stat_img} with --direction {self.kind}: expected --direction "
                "effect, which is the only one that a map gives"
            )
        self.sites = _residual_sites(subject, options.layers)
        half = options.n_prompts // 2
        tried = set(map(self.bank_tried, self.tasks))
        self.held_out = {
            bank: subject.held_out(bank, 2 * half if bank in tried else half)
            for bank in dict.fromkeys([subject.baseline, *subject.banks.values()])
        }
        self.defining = {bank: subject.shown_of(bank, options.n_defining) for bank in self.held_out}

    def bank_tried(self, task: str) -> str:
        """Name the bank whose prompts are answered: one's own where the topic is taken away."""
        return self.subject.banks[task] if self.options.minus else self.subject.baseline

    @property
    def n_steps(self) -> int:
        """Batches of answers: of the banks, of the search, of the report."""
        n_others = (len(self.subject.banks) - 1) * self.options.minus
        searched = 1 + len(self.sites) * len(self.options.strengths)
        n_rows = 3 + 2 * self.options.n_controls + n_others
        return 2 * len(self.held_out) + len(self.tasks) * (searched + n_rows)

    def learn(self, bar: Any) -> None:
        """Answer the defining prompts of each bank, and learn and test the classifier."""
        n_tokens = self.options.n_tokens
        stops = np.cumsum([site.width for site in self.sites])[:-1]
        self.responses: dict[str, dict[str, Floats]] = {site.name: {} for site in self.sites}
        learned: list[tuple[str, str]] = []
        tests: list[tuple[str, str]] = []
        for bank, prompts in self.defining.items():
            known = answer(self.subject, prompts, n_tokens=n_tokens)
            # answers alone are often formulas ("The answer is:"): the prompt says the topic
            means = text_means(self.subject.loaded, known, self.sites)
            for site, values in zip(self.sites, np.split(means, stops, axis=1), strict=True):
                self.responses[site.name][bank] = values
            words = [prompt.text for prompt in self.subject.shown_of(bank, 100)]
            learned += [(text, bank) for text in (*words, *known.texts)]
            bar.update()
            # the half that nothing is chosen on
            half = self.options.n_prompts // 2
            unseen = answer(self.subject, self.held_out[bank][-half:], n_tokens=n_tokens)
            tests += [(text, bank) for text in unseen.texts]
            bar.update()
        self.classifier = text_classifier(*zip(*learned, strict=True))
        self.n_tests = len(tests)
        texts, banks = zip(*tests, strict=True)
        self.n_correct = int((self.classifier.predict(texts) == np.array(banks)).sum())

    def direction(self, task: str, site: Site) -> Floats:
        """Give the direction of a topic after a layer, (width,)."""
        bank, baseline = self.subject.banks[task], self.subject.baseline
        if self.kind == "vs-others":
            return versus_others(self.responses[site.name], bank, baseline)
        means = mean_difference(self.responses[site.name], bank, baseline)
        if self.kind == "means":
            return means
        dataset = self.subject.dataset
        part = dataset.space.site_slices[site.name]
        effect = self.subject.effect(task, self.options.stat_img)[part]
        return at_norm(effect * dataset.calibration.scale[part], float(np.linalg.norm(means)))


class TopicStudy:
    """One topic: the search on one half of the prompts, the report on the other."""

    def __init__(self, scene: Scene, task: str, bar: Any) -> None:
        self.scene, self.task, self.bar = scene, task, bar
        self.subject, self.options = scene.subject, scene.options
        self.bank = self.subject.banks[task]
        prompts, half = scene.held_out[scene.bank_tried(task)], scene.options.n_prompts // 2
        self.search_prompts, self.report_prompts = prompts[:half], prompts[-half:]
        self.class_index = scene.classifier.classes_.tolist().index(self.bank)

    def run(self) -> dict[str, Any]:
        """Search, then report."""
        searched, site, strength = self._search()
        vector = self.scene.direction(self.task, site)
        edit = self._edit(site, vector, strength)
        rows, texts = self._report(site, vector, strength)
        return {"search": searched, "steer": rows, "texts": texts, "edit": edit}

    def _edit(self, site: Site, vector: Floats, strength: float) -> Edit:
        minus, defining = self.options.minus, self.scene.defining.values()
        return vector_edit(
            self.subject.dataset.space, site.name, vector,
            strength=-strength if minus else strength,
            label=f"{self.task}{'Away' if minus else ''}",
            source=f"direction {self.scene.kind} of {self.task}",
            criterion=f"layer {site.layer}, {'-' if minus else '+'}{strength:g} times",
            made_from=Provenance.of(prompts=[p.prompt_id for bank in defining for p in bank]),
        )  # fmt: skip

    def _measure(self, answered: Answered) -> dict[str, Any]:
        p = self.scene.classifier.predict_proba(answered.texts)
        self.bar.update()
        return {
            "hit": p.argmax(axis=1) == self.class_index,
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
        settings = list(product(self.scene.sites, self.options.strengths))
        rows = []
        for site, strength in settings:
            edit = self._edit(site, self.scene.direction(self.task, site), strength)
            measured = self._measure(self._answer(self.search_prompts, edit))
            row: dict[str, Any] = {"task": self.task, "layer": site.layer, "strength": strength}
            row |= {name: values.mean() for name, values in measured.items()}
            row["cost"] = float((measured["nll"] - base["nll"]).mean())
            row["allowed"] = row["cost"] <= self.options.max_cost and row["distinct_2"] >= least
            rows.append(row)
        names = ("task", "layer", "strength", "hit", "p", "nll", "cost", "distinct_2", "allowed")
        table = pd.DataFrame(rows)[list(names)]
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
        site, strength = settings[best]
        return table.assign(chosen=table.index == best), site, float(strength)

    def _report(
        self, site: Site, vector: Floats, strength: float
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Measure the direction and its controls on prompts that chose nothing."""
        norm, responses = float(np.linalg.norm(vector)), self.scene.responses[site.name]
        on, off = responses[self.bank], responses[self.subject.baseline]
        rng = np.random.default_rng([self.subject.seed, self.class_index])
        controls = range(self.options.n_controls)

        def steered(other: Floats) -> Answered:
            return self._answer(self.report_prompts, self._edit(site, other, strength))

        tried = {
            "none": [self._answer(self.report_prompts)],
            "direction": [steered(vector)],
            "random": [steered(random_direction(site.width, norm, rng)) for _ in controls],
            "shuffled": [steered(shuffled_difference(on, off, norm, rng)) for _ in controls],
        }
        if self.options.minus:
            others = [other for other in self.subject.banks if other != self.task]
            directions = [at_norm(self.scene.direction(other, site), norm) for other in others]
            tried["other topic"] = [steered(direction) for direction in directions]
        else:
            tried["prompt"] = [self._asked()]
        base = replayed_map(self.subject, tried["none"][0])
        where = {"layer": site.layer, "strength": strength}
        rows, texts = [], []
        for method, answers in tried.items():
            if answers:  # not where there are no controls, or no other topics
                measured = [self._measure(answered) for answered in answers]
                named = [("", np.nan, np.nan)]
                if method != "none":
                    named = [self._identify(answered, base) for answered in answers]
                what = {"task": self.task, "method": method}
                rows.append({**what, **where, **_summary(measured), **_identified(named)})
                for answered, values in zip(answers, measured, strict=True):
                    texts.append(self._texts(what, answered, values))
        return pd.DataFrame(rows), pd.concat(texts, ignore_index=True)

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
        names = list(self.subject.banks)
        maps = [self.subject.effect(name) for name in names]
        gram = gram_matrix(np.stack([moved * self.subject.effects.mask, *maps]))
        eye = np.eye(len(gram))
        r = weighted_correlation(gram, eye[:1], eye[1:])[0]
        own = names.index(self.task)
        return names[int(r.argmax())], float(r[own]), float(np.delete(r, own).max())

    def _texts(
        self, what: dict[str, str], answered: Answered, measured: dict[str, Any]
    ) -> pd.DataFrame:
        return pd.DataFrame(
            {
                **what,
                "prompt_id": [prompt.prompt_id for prompt in answered.prompts],
                "prompt": [_one_line(prompt.text) for prompt in answered.prompts],
                "text": [_one_line(text) for text in answered.texts],
                "classified": self.scene.classifier.predict(answered.texts),
                **{name: measured[name] for name in ("p", "nll", "distinct_2")},
            }
        )


def _summary(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join draws of one method, with intervals over prompts."""
    hits = np.concatenate([values["hit"] for values in measured])
    nll = np.mean([values["nll"] for values in measured], axis=0)
    low, high = binomial_interval(int(hits.sum()), hits.size)
    nll_low, nll_high = mean_interval(nll)
    return {
        "n": hits.size, "hit": hits.mean(), "hit_low": low, "hit_high": high,
        "p": np.mean([values["p"] for values in measured]),
        "nll": nll.mean(), "nll_low": nll_low, "nll_high": nll_high,
        "distinct_2": np.mean([values["distinct_2"] for values in measured]),
    }  # fmt: skip


def _identified(named: Sequence[tuple[str, float, float]]) -> dict[str, Any]:
    """Join which topics the draws of one method were taken for."""
    topics, r_own, r_other = zip(*named, strict=True)
    identified = ", ".join(dict.fromkeys(topics))
    return {"identified": identified, "r_own": np.mean(r_own), "r_other": np.mean(r_other)}


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
