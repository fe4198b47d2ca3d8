"""Representational similarity: whether the same items are alike on both sides."""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t as student

from llm2bids.comparison.features import FeatureOptions
from llm2bids.comparison.geometry import ceilings, find_pairs, null_r, p_value
from llm2bids.comparison.items import KINDS, Side, read_side
from llm2bids.dataset.settings import results_folder
from llm2bids.exceptions import UsageError
from llm2bids.inference.statmap import write_json
from llm2bids.options import Options, option, shared, split_options, takes_options
from llm2bids.store.tables import write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Float64 = npt.NDArray[np.float64]

INK, BAND = "#1f77c4", "#b9b4a8"

_option, _shared = (partial(make, group="comparison") for make in (option, shared))


def _two(text: str) -> tuple[str, str] | None:
    """Read ``--sessions``."""
    if text == "none":
        return None
    first, comma, second = text.partition(",")
    if not comma or not first or not second or "," in second:
        raise UsageError(f"--sessions {text}: expected two labels, of A and of B: intact,lesion")
    return first, second


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Which items and modules are compared, and how chance is told."""

    items: str = _option(
        "prompts",
        "--items",
        "prompts: the mean over each prompt's volumes; words: over each word's, of stories read "
        "one volume a word; conditions: over each trial type's, of 12 and more",
        choices=KINDS,
    )
    sites: Sequence[str] = _shared(
        FeatureOptions,
        "sites",
        ("residual",),
        text="modules: residual, all, attention, mlp, a pattern on module names, or ! and any of "
        "these; those of one layer are taken together; repeatable, or with commas",
        shown_default="residual",
    )
    task: str | None = _shared(FeatureOptions, "task", text="only this task")
    sessions: tuple[str, str] | None = _option(
        None,
        "--sessions A,B",
        "session of A and of B, of datasets that have some: intact,LABEL",
        shown="none",
        parse=_two,
    )
    n_permutations: int = _option(1000, "--n-permutations", "permutations of the items", least=1)
    seed: int = _option(0, "--seed SEED", "of the permutations", least=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Representational similarity of two sides.

    Parameters
    ----------
    names : tuple of str
        The two sides.
    table : DataFrame
        A row for each pair of layers that were tested: ``layer_a``, ``layer_b``; ``r``, the mean
        over participants of Spearman's correlation of dissimilarities, its 95 % interval ``low``
        to ``high``; ``p`` against permuted items, ``p_fwe`` corrected over rows, ``p_within``
        against items permuted within their condition; ``ceiling_low``, ``ceiling_high`` of B.
    layers : tuple of tuple of str
        Layers of A and of B.
    matrix : ndarray of shape (n_layers_a, n_layers_b)
        ``r`` of all pairs of layers.
    items : DataFrame
        ``item``, ``condition``, and whether it is ``in_a`` and ``in_b``.
    participants : tuple of str
        Participants of B, each of which was compared.
    """

    names: tuple[str, str]
    table: pd.DataFrame
    layers: tuple[tuple[str, ...], tuple[str, ...]]
    matrix: Float64
    items: pd.DataFrame
    participants: tuple[str, ...]

    def describe(self) -> str:
        """Say which items were compared, and give the table."""
        both = self.items["in_a"] & self.items["in_b"]
        lines = [
            f"{self.names[0]} and {self.names[1]}: {int(both.sum())} items that both have, "
            f"{len(self.participants)} participants"
        ]
        for name, column, other in zip(self.names, "ab", "ba", strict=True):
            alone = self.items["item"][self.items[f"in_{column}"] & ~self.items[f"in_{other}"]]
            if len(alone):
                shown = "; ".join(text[:60] for text in alone[:3])
                more = f"; and {len(alone) - 3} more" if len(alone) > 3 else ""
                lines.append(f"only in {name} ({column.upper()}), left out: {shown}{more}")
        if self.table["ceiling_low"].isna().all():
            lines.append("no noise ceiling: no two participants of B have the same items")
        shown_columns = self.table.dropna(axis=1, how="all").set_index("layer_a")
        return "\n".join([*lines, shown_columns.round(3).to_string()])

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write table, matrix, items, settings and a picture; gives the files.

        Parameters
        ----------
        folder : str or Path
            Files of these names in it are replaced.
        """
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        a, b = self.layers
        matrix = pd.DataFrame(self.matrix, columns=list(b))
        matrix.insert(0, "layer_a", list(a))
        # a text may hold tabs and line breaks
        items = self.items.assign(item=self.items["item"].str.replace(r"\s+", " ", regex=True))
        tables = {"compare": self.table, "matrix": matrix, "items": items}
        for name, table in tables.items():
            write_table(out / f"{name}.tsv", table)
        _draw(self, out / "compare.png")
        return (*(out / f"{name}.tsv" for name in tables), out / "compare.png")


@takes_options(CompareOptions)
def compare(
    a: str | Path, b: str | Path, out_dir: str | Path | None = None, **options: Any
) -> Comparison:
    """Compare two models, or a model and people, by which items are alike to each.

    Parameters
    ----------
    a : str or Path
        A dataset of ours, or dissimilarities that rsatoolbox saved (``.hdf5``, with the pattern
        descriptor ``item``, and the RDM descriptors ``participant`` and ``layer``).
    b : str or Path
        The same; noise ceilings are those of its participants.
    out_dir : str or Path, optional
        Folder to write table, matrix, items and picture to.
    **options
        Which items and modules, and how chance is told.

    Returns
    -------
    Comparison
        By layer.

    Raises
    ------
    DatasetError, ModelError, UsageError
        If a side cannot be read, both have too few items in common, or rsatoolbox is missing.

    Notes
    -----
    Items are matched by their text. Two items are as unlike as one minus the correlation of their
    patterns over the units of a layer, in standard deviations from the mean of the resting scan
    (Kriegeskorte et al. 2008, Front Syst Neurosci 2:4). Each participant of B is compared with the
    participants of A who have most of the same items.
    """
    (asked,) = split_options(options, CompareOptions)
    if importlib.util.find_spec("rsatoolbox") is None:
        raise UsageError("compare needs rsatoolbox: pip install 'llm2bids[compare]'")
    folder = None if out_dir is None else results_folder(out_dir)
    sessions = asked.sessions or (None, None)
    side_a, side_b = (
        read_side(
            Path(path), items=asked.items, sites=asked.sites, task=asked.task, session=session
        )
        for path, session in zip((a, b), sessions, strict=True)
    )
    result = compare_sides(
        side_a, side_b, n_permutations=asked.n_permutations, seed=asked.seed, kind=asked.items
    )
    if folder is not None:
        result.save(folder)
        entries = {"a": str(Path(a).name), "b": str(Path(b).name), **asdict(asked)}
        write_json(folder / "compare.json", entries)
    return result


def compare_sides(
    a: Side, b: Side, *, n_permutations: int, seed: int, kind: str = "prompts"
) -> Comparison:
    """Compare two sides at all layers, and test those that belong together."""
    pairs = find_pairs(a, b, kind)
    tested = _tested(a, b)
    each = np.stack([pair.a @ pair.b.T for pair in pairs])  # (n_participants, n_a, n_b)
    mean = each.mean(axis=0, dtype=np.float64)
    rows, columns = np.transpose(tested)
    null, within = (
        null_r(pairs, rows, columns, n_permutations, seed, inside=inside)
        for inside in (False, True)
    )
    assert null is not None
    r = mean[rows, columns]
    low, high = _interval(each[:, rows, columns].astype(np.float64))
    noise = ceilings(pairs, len(b.layers))
    limit = 1e-6  # of float32: a permutation that changes nothing is as extreme as what it left
    table = pd.DataFrame(
        {
            "layer_a": [a.layers[row] for row in rows],
            "layer_b": [b.layers[column] for column in columns],
            "r": r,
            "low": low,
            "high": high,
            "p": p_value(null >= r - limit),
            "p_fwe": p_value(null.max(axis=1, keepdims=True) >= r - limit),
            "p_within": np.nan if within is None else p_value(within >= r - limit),
            "ceiling_low": noise[columns, 0],
            "ceiling_high": noise[columns, 1],
        }
    )
    return Comparison(
        names=(a.name, b.name) if a.name != b.name else (f"{a.name} (A)", f"{b.name} (B)"),
        table=table,
        layers=(a.layers, b.layers),
        matrix=mean,
        items=_item_table(a, b),
        participants=tuple(pair.participant for pair in pairs),
    )


def _tested(a: Side, b: Side) -> list[tuple[int, int]]:
    """Choose pairs of layers: of one name, of one relative depth, or all where there is none."""
    n_a, n_b = len(a.layers), len(b.layers)
    if not (a.has_depth and b.has_depth):
        return [(row, column) for row in range(n_a) for column in range(n_b)]
    if a.layers == b.layers:
        return [(index, index) for index in range(n_a)]
    return [(row, round(row * (n_b - 1) / max(n_a - 1, 1))) for row in range(n_a)]


def _interval(r: Float64) -> tuple[Float64, Float64]:
    """95 % interval of the mean over participants (n_participants, n_tested), by Student's t."""
    n = len(r)
    if n < 2:
        return np.full(r.shape[1], np.nan), np.full(r.shape[1], np.nan)
    half = student.ppf(0.975, n - 1) * r.std(axis=0, ddof=1) / np.sqrt(n)
    return r.mean(axis=0) - half, r.mean(axis=0) + half


def _item_table(a: Side, b: Side) -> pd.DataFrame:
    """List all items, their condition, and who has them."""
    items = pd.concat(
        pd.DataFrame({name: rdms.pattern_descriptors[name] for name in ("item", "condition")})
        for side in (a, b)
        for rdms in side.participants.values()
    )
    table = items.astype(str).drop_duplicates("item", ignore_index=True)
    return table.assign(in_a=table["item"].isin(a.texts), in_b=table["item"].isin(b.texts))


def _draw(comparison: Comparison, path: Path) -> None:
    """Draw the tested pairs with their interval and the noise ceiling, beside all pairs."""
    from matplotlib.figure import Figure

    a, b = comparison.names
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    curve, matrix = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_curve(curve, comparison)
    shown = matrix.imshow(
        comparison.matrix, cmap="cividis", aspect="auto", vmin=min(0.0, comparison.matrix.min())
    )
    figure.colorbar(shown, ax=matrix, label="r (Spearman)")
    for axis, names in zip((matrix.yaxis, matrix.xaxis), comparison.layers, strict=True):
        _set_ticks(axis, names)
    matrix.set(xlabel=f"layer of {b}", ylabel=f"layer of {a}", title="all pairs of layers")
    figure.savefig(path)


def _draw_curve(axes: "Axes", comparison: Comparison) -> None:
    table, (a, b) = comparison.table, comparison.names
    x = np.arange(len(table))
    axes.plot(x, table["r"], color=INK, marker="o", markersize=3.5, label=f"{a} and {b}")
    for low, high, color, alpha, label in (
        ("low", "high", INK, 0.2, "95 % over participants"),
        ("ceiling_low", "ceiling_high", BAND, 0.5, f"noise ceiling of {b}"),
    ):
        if table[low].notna().any():
            band = table[low], table[high]
            axes.fill_between(x, *band, color=color, alpha=alpha, lw=0, label=label)
    chance = table["p_fwe"] > 0.05
    if chance.any():
        label = "not above permuted items (p > 0.05, corrected)"
        axes.plot(
            x[chance], table["r"][chance], "o", mfc="white", mec=INK, markersize=5, label=label
        )
    axes.axhline(0, color="0.6", lw=0.8)
    pairs = zip(table["layer_a"], table["layer_b"], strict=True)
    names = [first if first == second else f"{first}, {second}" for first, second in pairs]
    _set_ticks(axes.xaxis, names)
    axes.set(xlabel="layer", ylabel="r (Spearman)", title="likeness of the items' geometry")
    axes.legend(fontsize=7.5, frameon=False)


def _set_ticks(axis: Any, names: Sequence[str]) -> None:
    """Name up to eight places of an axis."""
    ticks = np.unique(np.linspace(0, len(names) - 1, min(len(names), 8)).astype(int))
    axis.set_ticks(ticks.tolist(), [names[tick] for tick in ticks])
