"""What lesions did: tables with intervals over prompts, and what they say in a few lines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import DatasetError, InterventionError
from llm2bids.intervention.evaluation import MEASURES, Bootstrap, interval
from llm2bids.model.edit import Edit
from llm2bids.store.commit import replace_text
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json, to_json
from llm2bids.store.tables import read_table, write_table

OFF = "off"
"""Label of the off prompts among the texts."""

FOLDER = Path("group/lesion")
"""Place of the results in an output folder of `analyze`."""

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
    "selective": "own - off and own - unrelated above 0 by their lower bounds, off and unrelated "
    "at most a third of own, and above 95 % of the random draws",
    "kind": "matched: random units, as many in each site and as active on the own topic's text; "
    "shared component: networks of which each participant gives the map of a random topic",
    "activation_ratio": "mean |activation| of the drawn units over the network's",
}


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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LesionResult:
    """What lesions did.

    Parameters
    ----------
    matrix : DataFrame
        One row for each network, dose, text and measure: ``change``, ``low``, ``high``, in nats a
        token.
    selectivity : DataFrame
        One row for each network, dose and measure: the losses of its own, of related and unrelated
        topics and of off text, differences and ratio with intervals, p values, ``selective``.
    draws : DataFrame
        Control draws: ``own``, ``off`` and their difference.
    dissociation : DataFrame
        Pairs of unrelated topics: what each one's text loses more by its own network.
    untrained : DataFrame
        The matrix of the same lesions in the architecture with random weights.
    prompts : DataFrame
        Change and intact NLL of every prompt.
    settings : dict
        What was asked for, and of which model.
    """

    matrix: pd.DataFrame
    selectivity: pd.DataFrame
    draws: pd.DataFrame
    dissociation: pd.DataFrame
    untrained: pd.DataFrame
    prompts: pd.DataFrame
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return f"LesionResult({self.settings.get('Model')}, {len(self.selectivity)} rows)"

    def save(self, out_dir: Path, edits: Mapping[tuple[str, float], Edit]) -> "LesionResult":
        """Write tables, settings and edit files to ``group/lesion`` of an analysis.

        Parameters
        ----------
        out_dir : Path
            Output folder of `llm2bids analyze`.
        edits : mapping
            The edits, by label and dose.

        Returns
        -------
        LesionResult
            This.
        """
        folder = out_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        # lesion.json goes first and comes last: without it, tables of a run cut off are not read
        for pattern in ("lesion.json", "*.tsv", "*.png", "edits/*.json"):
            for old in data_files(folder, pattern):
                old.unlink()
        for name in _TABLES:
            write_table(folder / f"{name}.tsv", getattr(self, name))
        for (label, dose), edit in edits.items():
            edit.save(folder / "edits" / f"{label}_{dose:.3g}percent_edit.json")
        content = {**self.settings, "Shows": SHOWS, "Columns": COLUMNS}
        replace_text(folder / "lesion.json", to_json(content))
        return self

    def describe(self) -> str:
        """Say what the lesions did.

        Returns
        -------
        str
            A few lines.
        """
        return "\n".join(_described(self))


_TABLES = ("matrix", "selectivity", "draws", "dissociation", "untrained", "prompts")


def read_lesions(out_dir: Path) -> LesionResult | None:
    """Read what `LesionResult.save` wrote; None where there is nothing."""
    folder = out_dir / FOLDER
    if not (folder / "lesion.json").is_file():
        return None
    text = ("network", "text", "relation", "measure", "reason", "kind", "first", "second")
    try:
        tables = {name: read_table(folder / f"{name}.tsv", text=text) for name in _TABLES}
        settings = read_json(folder / "lesion.json")
    except DatasetError as error:
        raise InterventionError(f"{error}; run llm2bids lesion again") from None
    for table in tables.values():
        for name in ("selective", "both"):
            if name in table:
                table[name] = table[name].astype(str) == "True"
    return LesionResult(**tables, settings=settings)


def summarize_lesions(
    baseline: Nll,
    lesions: Sequence[Measured],
    *,
    draws: Sequence[Drawn],
    untrained: Sequence[Measured] | None,
    related: Mapping[str, tuple[str, ...]],
    prompts: Mapping[str, Sequence[str]],
    seed: int,
    settings: Mapping[str, Any],
) -> LesionResult:
    """Make the tables; the first of `untrained` is the intact one."""
    boot = Bootstrap(len(next(iter(baseline.values()))), N_BOOT, seed)
    drawn = _draw_table(draws, baseline)
    selectivity = pd.DataFrame(
        [
            _selectivity(lesion, baseline, measure, related, boot, drawn)
            for lesion in lesions
            for measure in MEASURES
        ]
    )
    bare: pd.DataFrame = pd.DataFrame(columns=list(_MATRIX))
    if untrained:
        bare = _matrix(untrained[1:], untrained[0].nll, related, boot)
    return LesionResult(
        matrix=_matrix(lesions, baseline, related, boot),
        selectivity=selectivity,
        draws=drawn,
        dissociation=_dissociation(lesions, related, boot),
        untrained=bare,
        prompts=_prompt_table(lesions, baseline, prompts),
        settings={
            **settings,
            "Seed": seed,
            "RelatedTopics": {topic: list(others) for topic, others in related.items()},
            "IntactNLL": {
                text: dict(zip(MEASURES, values.mean(axis=0).tolist(), strict=True))
                for text, values in baseline.items()
            },
        },
    )


_MATRIX = (
    *("network", "dose", "n_units", "text", "relation", "measure"),
    *("change", "low", "high", "n_prompts"),
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
            for column, measure in enumerate(MEASURES):
                change = (values - baseline[text])[:, column]
                low, high = interval(boot.means(text, change))
                what = (
                    lesion.label,
                    lesion.dose,
                    lesion.n_units,
                    text,
                    relation(text, lesion.own, related),
                )
                rows.append((*what, measure, change.mean(), low, high, len(change)))
    return pd.DataFrame(rows, columns=list(_MATRIX))


def _prompt_table(
    lesions: Sequence[Measured], baseline: Nll, prompts: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    names = [f"{kind}_{measure}" for kind in ("change", "intact") for measure in MEASURES]
    rows = [
        (
            lesion.label,
            lesion.dose,
            text,
            prompt,
            *(values - baseline[text])[row],
            *baseline[text][row],
        )
        for lesion in lesions
        for text, values in lesion.nll.items()
        for row, prompt in enumerate(prompts[text])
    ]
    return pd.DataFrame(rows, columns=["network", "dose", "text", "prompt_id", *names])


def _draw_table(draws: Sequence[Drawn], baseline: Nll) -> pd.DataFrame:
    rows = []
    for drawn in draws:
        for column, measure in enumerate(MEASURES):
            own, off = (
                float((drawn.nll[text] - baseline[text])[:, column].mean())
                for text in (drawn.own, OFF)
            )
            what = (drawn.kind, drawn.label, drawn.dose, drawn.draw, measure)
            rows.append((*what, own, off, own - off, drawn.activation_ratio))
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
    return {
        "n_draws": len(own),
        "n_reached": n_reached,
        "largest_draw": own.max() if len(own) else np.nan,
        "p": (1 + n_reached) / (1 + len(own)) if len(own) else np.nan,
        "p_corrected": (
            (1 + int((largest >= difference).sum())) / (1 + len(largest)) if len(own) else np.nan
        ),
        "shared_component": shared["own"].mean() if len(shared) else np.nan,
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


def _described(result: LesionResult) -> Iterator[str]:
    """Say what was found, line by line."""
    settings, table = result.settings, result.selectivity
    yield (
        f"lesion of {', '.join(settings['Roles'])} in {settings['Model']}: units set to "
        f"{settings['Method']}; change of NLL, nats a token, on {settings['NumberOfPrompts']} "
        "held-out prompts a text"
    )
    for row in table.to_dict("records"):
        cells = result.matrix[
            (result.matrix["network"] == row["network"])
            & (result.matrix["dose"] == row["dose"])
            & (result.matrix["measure"] == row["measure"])
            & (result.matrix["relation"] == "own")
        ].iloc[0]
        flag = "selective" if row["selective"] else f"NOT selective: {row['reason']}"
        chance = (
            f", above {row['n_draws'] - row['n_reached']} of {row['n_draws']} draws "
            f"(p {row['p']:.2g}, corrected {row['p_corrected']:.2g})"
            if row["n_draws"]
            else ""
        )
        name = f"{row['network']:<18} {row['dose']:>5.3g} %  {row['measure']:<8}"
        own = f"own {cells['change']:5.2f} [{cells['low']:.2f}, {cells['high']:.2f}]"
        kinds = [kind for kind in ("related", "unrelated", OFF) if not np.isnan(row[kind])]
        others = "  ".join(f"{kind} {row[kind]:5.2f}" for kind in kinds)
        yield f"{name} {own}  {others}{chance}; {flag}"
    if 0 < settings["NumberOfDraws"] < 1 / ALPHA - 1:
        least = 1 / (1 + settings["NumberOfDraws"])
        yield f"note: with {settings['NumberOfDraws']} draws p is at least {least:.2g}"
    yield SHOWS
