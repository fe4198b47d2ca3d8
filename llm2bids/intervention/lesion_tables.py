"""Tables of lesions: changes with intervals over prompts, and what is selective."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.dataset.sidecar import fill_json
from llm2bids.inference.statmap import notes_of
from llm2bids.intervention.answers import MEASURES
from llm2bids.intervention.results import InterventionResult
from llm2bids.model.edit import Edit
from llm2bids.paradigm.seed import derive_generator

# Label of the off prompts among the texts.
OFF = "off"

# Loss of other text, as a share of the own topic's, from which on a lesion is not selective.
TOLERATED = 1 / 3

ALPHA = 0.05

N_BOOT = 2000

Floats = npt.NDArray[np.float64]
# By text set, the NLL of each prompt, (n_prompts, 2) as `MEASURES`.
Nll = Mapping[str, Floats]

# By topic, those whose networks share many units.
Related = Mapping[str, tuple[str, ...]]

_SHOWN = (
    *("network", "dose", "measure", "own", "own_low", "own_high", "related", "unrelated", OFF),
    *("n_reached", "n_draws", "p", "p_corrected", "selective", "reason"),
)


@dataclass(frozen=True, eq=False)
class Measured:
    """One lesion, of a network or of a control draw in its place, and the NLL under it."""

    label: str = ""
    dose: float = 0.0
    own: str = ""  # topic that it is held to
    nll: Nll = field(default_factory=dict)
    n_units: int = 0
    # or intact, matched, shared component; untrained, untrained intact
    kind: str = "network"
    draw: int = 0
    activation_ratio: float = np.nan

    def changes(self, baseline: Nll) -> dict[str, Floats]:
        """Give the change of the NLL of each text's prompts, (n_prompts, 2) as `MEASURES`."""
        return {text: values - baseline[text] for text, values in self.nll.items()}


def lesion_result(
    measured: Sequence[Measured],
    *,
    related: Related,
    prompts: Mapping[str, Sequence[str]],
    seed: int,
    metadata: Mapping[str, Any],
    edits: Mapping[tuple[str, float], Edit],
) -> InterventionResult:
    """Make the tables of all that was measured."""
    by_kind: dict[str, list[Measured]] = defaultdict(list)
    for lesion in measured:
        by_kind[lesion.kind].append(lesion)
    baseline, lesions = by_kind["intact"][0].nll, by_kind["network"]
    drawn = _draw_table(by_kind["matched"] + by_kind["shared component"], baseline)
    selectivity = [
        _selectivity(lesion, baseline, measure, related, seed, drawn)
        for lesion in lesions
        for measure in MEASURES
    ]
    tables = {
        "selectivity": pd.DataFrame(selectivity),
        "matrix": _matrix(lesions, baseline, related, seed),
        "draws": drawn,
        "dissociation": _dissociation(lesions, related, seed),
        "prompts": _prompt_table(lesions, baseline, prompts),
    }
    for intact in by_kind["untrained intact"]:
        tables["untrained"] = _matrix(by_kind["untrained"], intact.nll, related, seed)
    notes = [
        f"lesion of {', '.join(metadata['Roles'])} in {metadata['Model']}: units set to "
        f"{metadata['Method']}; change of NLL, nats a token, on {metadata['NumberOfPrompts']} "
        "held-out prompts a text"
    ]
    if 0 < metadata["NumberOfDraws"] < 1 / ALPHA - 1:
        least = 1 / (1 + metadata["NumberOfDraws"])
        notes.append(f"with {metadata['NumberOfDraws']} draws p is at least {least:.2g}")
    return InterventionResult(
        name="lesion",
        stem="lesion",
        tables=tables,
        metadata={
            **metadata,
            "Seed": seed,
            "RelatedTopics": {topic: list(others) for topic, others in related.items()},
            "IntactNLL": {
                text: dict(zip(MEASURES, values.mean(axis=0).tolist(), strict=True))
                for text, values in baseline.items()
            },
            "Columns": fill_json("analysis/lesion_columns.json", {}),
        },
        notes=(*notes, *notes_of("lesion")),
        edits={f"lesion_{label}_{dose:.3g}percent": edit for (label, dose), edit in edits.items()},
        columns=_SHOWN,
    )


def relation(text: str, own: str, related: Related) -> str:
    """Say what a text is to the topic of a lesion."""
    if text in (own, OFF):
        return "own" if text == own else OFF
    return "related" if text in related.get(own, ()) else "unrelated"


def _matrix(
    lesions: Sequence[Measured], baseline: Nll, related: Related, seed: int
) -> pd.DataFrame:
    rows = []
    for lesion in lesions:
        for text, change in lesion.changes(baseline).items():
            means, (low, high) = change.mean(axis=0), interval(boot_means(text, change, seed))
            kind = relation(text, lesion.own, related)
            what = (lesion.label, lesion.dose, lesion.n_units, text, kind)
            rows += [
                (*what, *of_measure, len(change))
                for of_measure in zip(MEASURES, means, low, high, strict=True)
            ]
    names = ["network", "dose", "n_units", "text", "relation", "measure"]
    return pd.DataFrame(rows, columns=[*names, "change", "low", "high", "n_prompts"])


def _prompt_table(
    lesions: Sequence[Measured], baseline: Nll, prompts: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    parts = []
    for lesion in lesions:
        for text, change in lesion.changes(baseline).items():
            what = {"network": lesion.label, "dose": lesion.dose, "text": text}
            values = np.hstack([change, baseline[text]])
            names = [f"{kind}_{measure}" for kind in ("change", "intact") for measure in MEASURES]
            cells = dict(zip(names, values.T, strict=True))
            parts.append(pd.DataFrame({**what, "prompt_id": list(prompts[text]), **cells}))
    return pd.concat(parts, ignore_index=True)


def _draw_table(draws: Sequence[Measured], baseline: Nll) -> pd.DataFrame:
    rows = []
    for drawn in draws:
        change = drawn.changes(baseline)
        own, off = change[drawn.own].mean(axis=0), change[OFF].mean(axis=0)
        for measure, *losses in zip(MEASURES, own, off, own - off, strict=True):
            what = (drawn.kind, drawn.label, drawn.dose, drawn.draw, measure)
            rows.append((*what, *losses, drawn.activation_ratio))
    names = ["kind", "network", "dose", "draw", "measure"]
    return pd.DataFrame(rows, columns=[*names, "own", "off", "difference", "activation_ratio"])


def _selectivity(
    lesion: Measured, baseline: Nll, measure: str, related: Related, seed: int, draws: pd.DataFrame
) -> dict[str, Any]:
    """Compare what the own topic loses with what other text loses."""
    changes = lesion.changes(baseline)
    mean: dict[str, float] = {}
    boots: dict[str, Floats] = {}
    for kind in ("own", "related", "unrelated", OFF):
        of_kind = {
            text: change[:, MEASURES.index(measure)]
            for text, change in changes.items()
            if relation(text, lesion.own, related) == kind
        }
        mean[kind], boots[kind] = np.nan, np.full(N_BOOT, np.nan)
        if of_kind:
            mean[kind] = np.mean([change.mean() for change in of_kind.values()])
            drawn = [boot_means(text, change, seed) for text, change in of_kind.items()]
            boots[kind] = np.mean(drawn, axis=0)
    row: dict[str, Any] = {"network": lesion.label, "dose": lesion.dose, "n_units": lesion.n_units}
    row |= {"measure": measure, **mean}
    row["own_low"], row["own_high"] = interval(boots["own"])
    for kind in ("unrelated", OFF):
        name = f"own_minus_{kind}"
        row[name] = mean["own"] - mean[kind]
        row[f"{name}_low"], row[f"{name}_high"] = interval(boots["own"] - boots[kind])
    ratio = low = high = np.nan
    if mean["unrelated"] > 0 and mean["own"] > 0:  # n/a where the unrelated losses are none
        below = np.where(boots["unrelated"] > 0, boots["unrelated"], np.nan)
        low, high = interval(np.nan_to_num(boots["own"] / below, nan=np.inf))
        ratio, high = mean["own"] / mean["unrelated"], high if np.isfinite(high) else np.nan
    row |= {"ratio": ratio, "ratio_low": low, "ratio_high": high}
    row |= _against_draws(lesion, measure, mean["own"] - mean[OFF], draws)
    reasons = _reasons(row)
    return row | {"selective": not reasons, "reason": "; ".join(reasons)}


def _against_draws(
    lesion: Measured, measure: str, difference: float, draws: pd.DataFrame
) -> dict[str, Any]:
    """Compare own - off with that of random draws, also with the largest of all networks'."""
    same = draws[(draws["measure"] == measure) & (draws["dose"] == lesion.dose)]
    of_network, matched = same["network"] == lesion.label, same["kind"] == "matched"
    own = same[matched & of_network]["difference"]
    largest = same[matched].groupby("draw")["difference"].max()
    shared = same[~matched & of_network]["own"].to_numpy()
    n_reached, n_largest = int((own >= difference).sum()), int((largest >= difference).sum())
    low, high = interval(shared) if shared.size else (np.nan, np.nan)
    return {
        "n_draws": len(own),
        "n_reached": n_reached,
        "largest_draw": own.max(),
        "p": (1 + n_reached) / (1 + len(own)) if len(own) else np.nan,
        "p_corrected": (1 + n_largest) / (1 + len(largest)) if len(own) else np.nan,
        "shared_component": shared.mean() if shared.size else np.nan,
        "shared_low": low,
        "shared_high": high,
    }


def _reasons(row: Mapping[str, Any]) -> list[str]:
    """Say in what a lesion is not selective."""
    reasons = []
    for kind in ("unrelated", OFF):
        if row[f"own_minus_{kind}_low"] <= 0:
            reasons.append(f"the own topic does not lose more than {kind} text")
        elif row[kind] > TOLERATED * row["own"]:
            share = 100 * row[kind] / row["own"]
            reasons.append(f"{kind} text loses {row[kind]:.2f}, {share:.0f} % of the own topic")
    if row["n_draws"] and row["n_reached"] > ALPHA * row["n_draws"]:
        reasons.append(f"{row['n_reached']} of {row['n_draws']} random draws do as much")
    return reasons


def _dissociation(lesions: Sequence[Measured], related: Related, seed: int) -> pd.DataFrame:
    """Compare pairs of unrelated topics: each one's text under both networks."""
    rows = []
    for first, second in combinations(lesions, 2):
        if first.dose != second.dose or relation(second.own, first.own, related) != "unrelated":
            continue
        cells: dict[str, Any] = {}
        for name, mine, other in (("first", first, second), ("second", second, first)):
            more = mine.nll[mine.own] - other.nll[mine.own]
            low, high = interval(boot_means(mine.own, more, seed))
            cells |= {f"{name}_text": more.mean(axis=0), f"{name}_low": low, f"{name}_high": high}
        what = {"first": first.own, "second": second.own, "dose": first.dose, "measure": MEASURES}
        rows.append(pd.DataFrame({**what, **cells}))
    if not rows:
        names = [f"{who}_{what}" for who in ("first", "second") for what in ("text", "low", "high")]
        return pd.DataFrame(columns=["first", "second", "dose", "measure", *names, "both"])
    table = pd.concat(rows, ignore_index=True)
    return table.assign(both=(table["first_low"] > 0) & (table["second_low"] > 0))


def boot_means(label: str, values: Floats, seed: int) -> Floats:
    """Average values (n_prompts, ...) of a text set in every bootstrap draw, (N_BOOT, ...).

    The draws of a text set are the same whatever is measured on it.
    """
    rng = derive_generator(seed, "bootstrap", label)
    drawn = rng.integers(len(values), size=(N_BOOT, len(values)))
    return np.asarray(values[drawn].mean(axis=1))


def interval(draws: Floats) -> Floats:
    """Give where 95 % of draws (n, ...) lie, (2, ...)."""
    return np.asarray(np.quantile(draws, [0.025, 0.975], axis=0, method="inverted_cdf"))
