"""The participants table: one row for each replicate."""

import logging
import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from llm2bids.dataset.layout import list_bolds, parse_path, sidecar
from llm2bids.dataset.settings import read_sidecar
from llm2bids.exceptions import DatasetError
from llm2bids.store.files import inside
from llm2bids.store.tables import checked_columns, read_table, to_numbers

log = logging.getLogger(__name__)

PARTICIPANTS = PurePosixPath("participants.tsv")

# Our columns, which ``participants.json`` describes; others are their owner's, and stay.
COLUMNS = ("participant_id", "model", "seed", "n_runs", "n_prompts", "n_volumes")

_COUNTS = ("n_runs", "n_prompts", "n_volumes")

# Entries of a series' sidecar that rounding depends on, with the versions of these packages.
_KEYS = ("Processor", "NumberOfThreads", "ComputeDataType", "Device")

_PACKAGES = ("torch", "transformers", "numpy")


def read_participants(root: Path) -> pd.DataFrame:
    """Read the participants table; columns that are not ours as text, rows in their order."""
    path = inside(root, root / PARTICIPANTS)
    if not path.exists() and not path.is_symlink():
        return _typed(pd.DataFrame(columns=list(COLUMNS)))
    header = read_table(path, n_rows=0).columns
    table = read_table(path, text=("participant_id", *header.difference(list(COLUMNS))))
    checked_columns(table, path, (), text=COLUMNS)
    for participant in table["participant_id"]:
        if not re.fullmatch(r"sub-[A-Za-z0-9]+", str(participant)):
            raise DatasetError(
                f"{path}: participant_id {str(participant)[:40]!r}; expected sub- and a label of "
                "letters and digits. Restore the file"
            )
    for name in _COUNTS:
        counts = to_numbers(table[name])
        wrong = table[name].notna() & ~(counts.between(0, 2**53) & (counts == counts.round()))
        if wrong.any():
            raise DatasetError(
                f"{path}: column {name} holds {str(table.loc[wrong, name].iloc[0])[:40]!r}; "
                "expected a whole number or n/a. Restore the file"
            )
        table[name] = counts
    return _typed(table)


def with_participant(
    table: pd.DataFrame,
    participant_label: str,
    settings: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Add a participant, or take back the counts of one; without `counts` they are not known."""
    name = f"sub-{participant_label}"
    names = table["participant_id"].tolist()
    rows: list[dict[Any, Any]] = table.to_dict("records")
    if name not in names:
        row = bisect(names, name) if names == sorted(names) else len(names)
        rows.insert(row, {"participant_id": name})
        names.insert(row, name)
    rows[names.index(name)] |= {
        "model": settings.get("model"),
        "seed": settings.get("seed"),
        **dict.fromkeys(_COUNTS, pd.NA),
        **(counts or {}),
    }
    return _typed(pd.DataFrame(rows, columns=table.columns))


def without_participants(table: pd.DataFrame, recorded: Collection[str]) -> pd.DataFrame:
    """Leave out participants that have no runs, unless somebody wrote something about them."""
    names = table["participant_id"].str.removeprefix("sub-")
    own = table.drop(columns=list(COLUMNS))
    return table[names.isin(recorded) | (own.notna() & (own != "n/a")).any(axis=1)]


def count_runs(table: pd.DataFrame) -> dict[str, int]:
    """Give the number of runs of each participant whose row has all counts."""
    full = table.dropna(subset=list(_COUNTS))
    names = full["participant_id"].str.removeprefix("sub-")
    return dict(zip(names.tolist(), full["n_runs"].astype(int).tolist(), strict=True))


def counts_of(root: Path, bolds: Iterable[PurePosixPath]) -> dict[str, int]:
    """Count a participant's runs, prompts and volumes from the sidecars of its series."""
    metadata = [read_sidecar(root / sidecar(file)) for file in bolds]
    return {
        "n_runs": len(metadata),
        "n_prompts": sum(int(entries.get("NumberOfPrompts", 0)) for entries in metadata),
        "n_volumes": sum(int(entries.get("NumberOfVolumes", 0)) for entries in metadata),
    }


def by_participant(bolds: Iterable[PurePosixPath]) -> defaultdict[str, set[PurePosixPath]]:
    """Sort raw series by participant."""
    files: defaultdict[str, set[PurePosixPath]] = defaultdict(set)
    for file in bolds:
        files[str(parse_path(file).sub)].add(file)
    return files


def disagreement(root: Path, bolds: Iterable[PurePosixPath], settings: Mapping[str, Any]) -> str:
    """Say where the table does not fit the runs and the settings; empty if it does."""
    table = read_participants(root)
    of_label = by_participant(bolds)
    listed = table["participant_id"].str.removeprefix("sub-")
    if wrong := sorted(of_label.keys() ^ set(listed)):
        return f"sub-{wrong[0]} is in the table or has runs, but not both"
    if listed.duplicated().any():
        return f"sub-{listed[listed.duplicated()].iloc[0]} is in the table twice"
    for row in table.dropna(subset=["n_runs"]).to_dict("records"):
        label = str(row["participant_id"]).removeprefix("sub-")
        counts = counts_of(root, of_label[label])
        if any(pd.isna(row[name]) or row[name] != count for name, count in counts.items()):
            return f"the counts of sub-{label} are not those of its runs"
        for name in ("model", "seed"):
            expected = settings.get(name)
            if pd.isna(row[name]) != (expected is None) or (
                expected is not None and str(row[name]).removesuffix(".0") != str(expected)
            ):
                return f"{name} of sub-{label} is {row[name]}, the dataset has {expected}"
    return ""


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    counts = {name: table[name].astype("Int64") for name in _COUNTS}
    return table.assign(participant_id=table["participant_id"].astype("str"), **counts)


def warn_of_batch_effect(root: Path) -> None:
    """Warn where participants were computed on several kinds of machine, most runs first."""
    participants: dict[str, list[str]] = defaultdict(list)
    for file in list_bolds(root):
        name = _describe(read_sidecar(root / sidecar(file)))
        participants[name].append(str(parse_path(file).sub))
    if len(participants) > 1:
        ordered = sorted(participants.items(), key=lambda item: -len(item[1]))
        log.warning(
            "%s: runs were computed on %d kinds of machine, which round otherwise. That is a batch "
            "effect (sampled tokens may differ too); the sidecars of the runs say which, as a "
            "covariate of the group level or to leave participants out:\n%s",
            root,
            len(participants),
            "\n".join(
                f"  {name}: sub-{', sub-'.join(sorted(set(labels)))}" for name, labels in ordered
            ),
        )


def _describe(metadata: dict[str, Any]) -> str:
    versions = metadata.get("Versions", {})
    known = [f"{name} {versions[name]}" for name in _PACKAGES if versions.get(name)]
    parts = [str(metadata[key]) for key in _KEYS if key in metadata and key != "NumberOfThreads"]
    if "Processor" not in metadata:
        parts.insert(0, "processor not said")
    if (n_threads := metadata.get("NumberOfThreads")) is not None:
        parts.insert(1, f"{n_threads} thread{'s' if n_threads > 1 else ''}")
    return ", ".join([*parts, *known])
