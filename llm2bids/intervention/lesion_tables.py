"""Tables of lesions: changes with intervals over prompts, and what is selective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.intervention.evaluation import MEASURES, Bootstrap, interval
from llm2bids.intervention.results import InterventionResult
from llm2bids.model.edit import Edit

OFF = "off"
"""Label of the off prompts among the texts."""

TOLERATED = 1 / 3
"""Loss of other text, as a share of the own topic's, from which on a lesion is not selective."""

ALPHA = 0.05

N_BOOT = 2000

SHOWS = (
    "A lesion shows which text needs these units as they are. It does not show that the topic is "
    "stored in them, nor that no other units could do the same; related topics share their loss."
)
"""What a lesion shows and what not."""

Floats = npt.NDArray[np.float64]
Nll = Mapping[str, Floats]
"""By text set, the NLL of each prompt, (n_prompts, 2) as `MEASURES`."""

COLUMNS = {
    "network": "topic whose units were lesioned, or label of the edit",
    "dose": "percent of the units of the chosen sites (of an edit: of all units)",
    "text": "topic of the held-out prompts; off: everyday prompts",
    "relation": "own: the lesioned network's topic; related: its network shares a third of the "
    "units or more (Dice)",
    "measure": "given: the prompts themselves; answers: what the intact model answered",
    "change": "NLL of the lesioned model minus that of the intact one, nats a token; low and high: "
    "95 % bootstrap over prompts",
    "p": "(1 + draws whose own - off reaches the network's) / (1 + draws); p_corrected: against "
    "the largest draw of all networks of this dose",
    "shared_component": "mean loss of the own topic's text by networks of shuffled tasks; "
    "shared_low and shared_high: where 95 % of these networks lie",
    "selective": "own - off and own - unrelated above 0 by their lower bounds, off and unrelated "
    "at most a third of own, and above 95 % of the random draws",
    "kind": "matched: random units, as many in each site and as active on the own topic's text; "
    "shared component: networks of which each participant gives the map of a random topic",
    "activation_ratio": "mean |activation| of the drawn units over the network's",
}

_SHOWN = (
    *("network", "dose", "measure", "own", "own_low", "own_high", "related", "unrelated", OFF),
    *("n_reached", "n_draws", "p", "p_corrected", "selective", "reason"),
)


@dataclass(frozen=True, eq=False)
class Measured:
    """One lesion, and the NLL under it."""

    label: str
    dose: float
    n_units: int
    own: str
    nll: Nll


@dataclass(frozen=True, eq=False)
class Drawn:
    """One control draw, and the NLL under it of the own topic's text and of off text."""

    kind: str
    label: str
    dose: float
    draw: int
    own: str
    nll: Nll
    activation_ratio: float = np.nan


def lesion_result(
    baseline: Nll,
    lesions: Sequence[Measured],
    *,
    draws: Sequence[Drawn],
    untrained: Sequence[Measured] | None,
    related: Mapping[str, tuple[str, ...]],
    prompts: Mapping[str, Sequence[str]],
    seed: int,
    metadata: Mapping[str, Any],
    edits: Mapping[tuple[str, float], Edit],
) -> InterventionResult:
    """Make the tables; the first of `untrained` is the intact one."""
    boot = Bootstrap(len(next(iter(baseline.values()))), N_BOOT, seed)
    drawn = _draw_table(draws, baseline)
    selectivity = [
        _selectivity(lesion, baseline, measure, related, boot, drawn)
        for lesion in lesions
        for measure in MEASURES
    ]
    tables = {
        "selectivity": pd.DataFrame(selectivity),
        "matrix": _matrix(lesions, baseline, related, boot),
        "draws": drawn,
        "dissociation": _dissociation(lesions, related, boot),
        "prompts": _prompt_table(lesions, baseline, prompts),
    }
    if untrained:
        tables["untrained"] = _matrix(untrained[1:], untrained[0].nll, related, boot)
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
            "Columns": COLUMNS,
        },
        notes=(*notes, SHOWS),
        edits={f"lesion_{label}_{dose:.3g}percent": edit for (label, dose), edit in edits.items()},
        columns=_SHOWN,
    )


def relation(text: str, own: str, related: Mapping[str, tuple[str, ...]]) -> str:
    """Say what a text is to the topic of a lesion."""
    if text in (own, OFF):
        return "own" if text == own else OFF
    return "related" if text in related.get(own, ()) else "unrelated"


def _matrix(
    lesions: Sequence[Measured],
    baseline: Nll,
    related: Mapping[str, tuple[str, ...]],
    boot: Bootstrap,
) -> pd.DataFrame:
    rows = []
    for lesion in lesions:
        for text, values in lesion.nll.items():
            kind = relation(text, lesion.own, related)
            for measure, change in zip(MEASURES, (values - baseline[text]).T, strict=True):
                low, high = interval(boot.means(text, change))
                rows.append(
                    {
                        "network": lesion.label, "dose": lesion.dose, "n_units": lesion.n_units,
                        "text": text, "relation": kind, "measure": measure,
                        "change": change.mean(), "low": low, "high": high,
                        "n_prompts": len(change),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _prompt_table(
    lesions: Sequence[Measured], baseline: Nll, prompts: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    parts = []
    for lesion in lesions:
        for text, values in lesion.nll.items():
            what = {"network": lesion.label, "dose": lesion.dose, "text": text}
            measured = {"change": values - baseline[text], "intact": baseline[text]}
            cells = {
                f"{kind}_{measure}": array[:, column]
                for kind, array in measured.items()
                for column, measure in enumerate(MEASURES)
            }
            parts.append(pd.DataFrame({**what, "prompt_id": list(prompts[text]), **cells}))
    return pd.concat(parts, ignore_index=True)


def _draw_table(draws: Sequence[Drawn], baseline: Nll) -> pd.DataFrame:
    rows = []
    for drawn in draws:
        own, off = ((drawn.nll[t] - baseline[t]).mean(axis=0) for t in (drawn.own, OFF))
        for column, measure in enumerate(MEASURES):
            what = (drawn.kind, drawn.label, drawn.dose, drawn.draw, measure)
            losses = (own[column], off[column], own[column] - off[column])
            rows.append((*what, *losses, drawn.activation_ratio))
    names = ["kind", "network", "dose", "draw", "measure"]
    return pd.DataFrame(rows, columns=[*names, "own", "off", "difference", "activation_ratio"])


def _selectivity(
    lesion: Measured,
    baseline: Nll,
    measure: str,
    related: Mapping[str, tuple[str, ...]],
    boot: Bootstrap,
    draws: pd.DataFrame,
) -> dict[str, Any]:
    """Compare what the own topic loses with what other text loses."""
    column = MEASURES.index(measure)
    change = {text: (lesion.nll[text] - baseline[text])[:, column] for text in lesion.nll}
    means = {text: values.mean() for text, values in change.items()}
    drawn = {text: boot.means(text, values) for text, values in change.items()}
    groups: dict[str, list[str]] = {"own": [], "related": [], "unrelated": [], OFF: []}
    for text in change:
        groups[relation(text, lesion.own, related)].append(text)
    mean = {kind: _average([means[t] for t in texts]) for kind, texts in groups.items()}
    boots = {kind: _average([drawn[t] for t in texts]) for kind, texts in groups.items()}
    row: dict[str, Any] = {"network": lesion.label, "dose": lesion.dose, "n_units": lesion.n_units}
    row |= {"measure": measure, **mean}
    row |= dict(zip(("own_low", "own_high"), interval(boots["own"]), strict=True))
    for kind in ("unrelated", OFF):
        low, high = _bounds(boots["own"] - boots[kind])
        row |= {f"own_minus_{kind}": mean["own"] - mean[kind]}
        row |= {f"own_minus_{kind}_low": low, f"own_minus_{kind}_high": high}
    row |= _ratio(mean, boots)
    row |= _against_draws(lesion, measure, mean["own"] - mean[OFF], draws)
    reasons = _reasons(row)
    return row | {"selective": not reasons, "reason": "; ".join(reasons)}


def _average(parts: Sequence[Any]) -> Any:
    return np.mean(parts, axis=0) if len(parts) else np.nan


def _bounds(draws: Any) -> tuple[float, float]:
    return (np.nan, np.nan) if np.ndim(draws) == 0 else interval(draws)


def _ratio(mean: Mapping[str, float], boots: Mapping[str, Any]) -> dict[str, float]:
    """Divide own by unrelated losses; n/a where the unrelated ones are none."""
    names = ("ratio", "ratio_low", "ratio_high")
    if np.ndim(boots["unrelated"]) == 0 or mean["unrelated"] <= 0 or mean["own"] <= 0:
        return dict.fromkeys(names, np.nan)
    below = np.where(boots["unrelated"] > 0, boots["unrelated"], np.nan)
    ratios = np.nan_to_num(boots["own"] / below, nan=np.inf)
    low, high = interval(ratios)
    values = (mean["own"] / mean["unrelated"], low, high if np.isfinite(high) else np.nan)
    return dict(zip(names, values, strict=True))


def _against_draws(
    lesion: Measured, measure: str, difference: float, draws: pd.DataFrame
) -> dict[str, Any]:
    """Compare own - off with that of random draws, also with the largest of all networks'."""
    same = draws[(draws["measure"] == measure) & (draws["dose"] == lesion.dose)]
    matched = same[same["kind"] == "matched"]
    own = matched[matched["network"] == lesion.label]["difference"]
    largest = matched.groupby("draw")["difference"].max()
    shared = same[(same["kind"] == "shared component") & (same["network"] == lesion.label)]
    n_reached = int((own >= difference).sum())
    low, high = interval(shared["own"].to_numpy()) if len(shared) else (np.nan, np.nan)
    return {
        "n_draws": len(own),
        "n_reached": n_reached,
        "largest_draw": own.max() if len(own) else np.nan,
        "p": (1 + n_reached) / (1 + len(own)) if len(own) else np.nan,
        "p_corrected": (
            (1 + int((largest >= difference).sum())) / (1 + len(largest)) if len(own) else np.nan
        ),
        "shared_component": shared["own"].mean() if len(shared) else np.nan,
        "shared_low": low,
        "shared_high": high,
    }


def _reasons(row: Mapping[str, Any]) -> list[str]:
    """Say in what a lesion is not selective."""
    reasons = []
    for kind in ("unrelated", OFF):
        if np.isnan(row[f"own_minus_{kind}"]):
            continue
        if row[f"own_minus_{kind}_low"] <= 0:
            reasons.append(f"the own topic does not lose more than {kind} text")
        elif row[kind] > TOLERATED * row["own"]:
            share = 100 * row[kind] / row["own"]
            reasons.append(f"{kind} text loses {row[kind]:.2f}, {share:.0f} % of the own topic")
    if row["n_draws"] and row["n_reached"] > ALPHA * row["n_draws"]:
        reasons.append(f"{row['n_reached']} of {row['n_draws']} random draws do as much")
    return reasons


def _dissociation(
    lesions: Sequence[Measured], related: Mapping[str, tuple[str, ...]], boot: Bootstrap
) -> pd.DataFrame:
    """Compare pairs of unrelated topics: each one's text under both networks."""
    rows = []
    for first, second in combinations(lesions, 2):
        if first.dose != second.dose or relation(second.own, first.own, related) != "unrelated":
            continue
        for column, measure in enumerate(MEASURES):
            row: dict[str, Any] = {"first": first.own, "second": second.own, "dose": first.dose}
            row["measure"] = measure
            for name, mine, other in (("first", first, second), ("second", second, first)):
                text = mine.own
                more = (mine.nll[text] - other.nll[text])[:, column]
                low, high = interval(boot.means(text, more))
                row |= {f"{name}_text": more.mean(), f"{name}_low": low, f"{name}_high": high}
            rows.append(row | {"both": row["first_low"] > 0 and row["second_low"] > 0})
    names = [f"{who}_{what}" for who in ("first", "second") for what in ("text", "low", "high")]
    columns = ["first", "second", "dose", "measure", *names, "both"]
    return pd.DataFrame(rows, columns=columns)
