"""Dissimilarities of items (prompts, words, conditions) at each layer, of a dataset or a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.comparison.means import group_sums, require_word_clock
from llm2bids.dataset.layout import Run
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.exceptions import UsageError
from llm2bids.space.arrange import chosen_sites

if TYPE_CHECKING:
    from rsatoolbox.rdm import RDMs

KINDS = ("prompts", "words", "conditions")
SUFFIXES = (".hdf5", ".h5")
OFF = "off"  # condition of the off prompts


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """The items of each participant, their dissimilarities at each layer, and where from."""

    name: str
    layers: tuple[str, ...]
    has_depth: bool  # layers of a model, in order; regions of a brain have none
    participants: dict[str, "RDMs"]  # one RDM a layer, with the pattern descriptors of `rdms_of`

    @property
    def texts(self) -> tuple[str, ...]:
        """All items, each once."""
        return tuple(
            dict.fromkeys(text for rdms in self.participants.values() for text in items_of(rdms))
        )


def items_of(rdms: "RDMs") -> list[str]:
    """List the items of RDMs, in their order."""
    return list(map(str, rdms.pattern_descriptors["item"]))


def rdms_of(
    patterns: Sequence[npt.NDArray[np.floating[Any]]],
    layers: Sequence[str],
    items: Sequence[str],
    conditions: Sequence[str],
) -> "RDMs":
    """Correlation distances of patterns (n_items, n_units), one array for each layer."""
    from rsatoolbox.data import Dataset as Patterns
    from rsatoolbox.rdm import RDMs, calc_rdm

    distances = [
        calc_rdm(Patterns(part), method="correlation").dissimilarities for part in patterns
    ]
    return RDMs(
        np.concatenate(distances),
        dissimilarity_measure="correlation",
        rdm_descriptors={"layer": list(layers)},
        pattern_descriptors={"item": list(items), "condition": list(conditions)},
    )


def read_side(
    path: Path, *, items: str, sites: Sequence[str], task: str | None, session: str | None
) -> Side:
    """Read a dataset of ours, or dissimilarities that rsatoolbox saved."""
    if path.suffix in SUFFIXES:
        return _read_file(path)
    dataset = open_dataset(path)
    if dataset.sessions and session not in dataset.sessions:
        raise UsageError(
            f"--sessions: {dataset.path} has {', '.join(dataset.sessions)}; expected one for "
            "each side, as intact,intact"
        )
    if session is not None and not dataset.sessions:
        raise UsageError(f"--sessions {session}: {dataset.path} has no sessions")
    runs: dict[str, list[Run]] = {}
    for run in dataset.select(task=task):
        if run.session == session:
            runs.setdefault(run.participant_label, []).append(run)
    layers, units = _layers(dataset, sites)
    return Side(
        name=path.name,
        layers=tuple(dict.fromkeys(layers.tolist())),
        has_depth=True,
        participants={
            label: _participant(dataset, mine, items, layers, units) for label, mine in runs.items()
        },
    )


def _layers(
    dataset: Dataset, patterns: Sequence[str]
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """Give the layer of each chosen unit, or its module outside the layers; and their numbers."""
    sites = chosen_sites(dataset.space, patterns)
    layers = [site.name if site.layer is None else str(site.layer) for site in sites]
    units = np.r_[tuple(dataset.space.site_slices[site.name] for site in sites)]
    return np.repeat(layers, [site.width for site in sites]), units


def _participant(
    dataset: Dataset,
    runs: Sequence[Run],
    items: str,
    layers: npt.NDArray[np.str_],
    units: npt.NDArray[np.int64],
) -> "RDMs":
    """Average each item over its volumes in all runs, and compare the items layer by layer."""
    tables = [_volumes(dataset, run, items) for run in runs]
    listed = pd.concat(tables).dropna(subset="item").drop_duplicates("item")
    number = pd.Series(range(len(listed)), index=listed["item"])
    total = np.zeros((len(listed), len(units)), dtype=np.float32)
    count = np.zeros(len(listed), dtype=np.int64)
    for run, table in zip(runs, tables, strict=True):
        group = np.asarray(table["item"].map(number).fillna(-1), dtype=np.int64)
        sums, counts = group_sums(dataset, run, group, len(listed), units)
        total += sums
        count += counts
    total /= count[:, None].astype(np.float32)
    patterns = {
        layer: total[:, layers == layer].astype(np.float64)
        for layer in dict.fromkeys(layers.tolist())
    }
    for layer, part in patterns.items():
        if (part.std(axis=1) == 0).any():
            raise UsageError(
                f"{dataset.path}, layer {layer}: an item is the same in all of "
                f"{part.shape[1]} units, and correlates with nothing; choose more (--sites)"
            )
    texts, kinds = listed["item"].tolist(), listed["condition"].tolist()
    return rdms_of(list(patterns.values()), list(patterns), texts, kinds)


def _volumes(dataset: Dataset, run: Run, items: str) -> pd.DataFrame:
    """Say which item each volume shows, and its condition: a row for each volume."""
    if dataset.paradigm.order == "story":
        require_word_clock(dataset, run)
    rows = dataset.transcript(run).dropna(subset="volume").drop_duplicates("volume")
    n_volumes = dataset.open_series(run).n_volumes
    rows = rows.set_index(rows["volume"].astype(int)).reindex(range(n_volumes))
    kind = rows["trial_type"].astype("object").where(rows["trial_type"].notna(), OFF)
    kind = kind.replace({"": OFF, "n/a": OFF})
    if items == "words":
        events = dataset.events(run)
        if "spoken_onset" not in events:
            raise UsageError(
                f"--items words: {dataset.path} has volumes of prompts; expected a story "
                "that was read, one volume a word (llm2bids read --per-word)"
            )
        item = events["word"].astype(str).str.casefold()
    elif items == "conditions":
        item = kind.where(kind != OFF)
    else:
        item = rows["prompt_id"].map(dataset.prompts.set_index("prompt_id")["text"])
    return pd.DataFrame({"item": item.to_numpy(object), "condition": kind.to_numpy(object)})


def _read_file(path: Path) -> Side:
    """Read RDMs that rsatoolbox saved: a participant and a layer (or region) for each RDM."""
    from rsatoolbox.rdm import load_rdm

    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected RDMs that rsatoolbox saved, or a dataset")
    try:
        rdms = load_rdm(str(path), file_type="hdf5")
    except Exception as error:  # h5py and rsatoolbox raise every kind
        raise UsageError(f"{path}: not RDMs that rsatoolbox saved ({error})") from None
    if "item" not in rdms.pattern_descriptors:
        raise UsageError(
            f"{path}: pattern descriptors {', '.join(rdms.pattern_descriptors)}; expected 'item', "
            "the text of each prompt or word"
        )
    if not np.isfinite(rdms.dissimilarities).all():
        raise UsageError(f"{path}: dissimilarities that are NaN; expected finite numbers")
    items = items_of(rdms)
    if len(set(items)) < len(items):
        twice = next(item for item in items if items.count(item) > 1)
        raise UsageError(f"{path}: item {twice!r} is there twice; expected each once")
    rdms.pattern_descriptors.setdefault("condition", [""] * rdms.n_cond)
    described = rdms.rdm_descriptors
    layer = list(map(str, described.get("layer", [path.stem] * rdms.n_rdm)))
    layers = tuple(dict.fromkeys(layer))
    number = [layer[:index].count(name) for index, name in enumerate(layer)]
    who = list(map(str, described.get("participant", number)))
    row = {pair: index for index, pair in enumerate(zip(who, layer, strict=True))}
    participants = {}
    for label in dict.fromkeys(who):
        rows = [row.get((label, name)) for name in layers]
        if None in rows or who.count(label) != len(layers):
            raise UsageError(
                f"{path}: participant {label} has {who.count(label)} RDMs; expected one for each "
                f"of {', '.join(layers)} (rdm descriptors 'participant', 'layer')"
            )
        participants[label] = rdms[rows]
    return Side(name=path.stem, layers=layers, has_depth=False, participants=participants)
