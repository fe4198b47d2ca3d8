"""The participants table: one row for each replicate."""

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from llm2bids.dataset.layout import parse_path, sidecar
from llm2bids.dataset.settings import read_sidecar
from llm2bids.exceptions import DatasetError
from llm2bids.store.files import inside
from llm2bids.store.tables import read_table, to_numbers

PARTICIPANTS = PurePosixPath("participants.tsv")

COLUMNS = ("participant_id", "model", "seed", "n_runs", "n_prompts", "n_volumes")
"""Our columns, which ``participants.json`` describes; others are their owner's, and stay."""

_COUNTS = ("n_runs", "n_prompts", "n_volumes")


def read_participants(root: Path) -> pd.DataFrame:
    """Read the participants table; columns that are not ours as text, rows in their order."""
    path = inside(root, root / PARTICIPANTS)
    if not path.exists() and not path.is_symlink():
        return _typed(pd.DataFrame(columns=list(COLUMNS)))
    header = read_table(path, n_rows=0).columns
    table = read_table(path, text=("participant_id", *header.difference(list(COLUMNS))))
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DatasetError(
            f"{path}: columns {', '.join(missing)} are missing; expected {', '.join(COLUMNS)}. "
            "Restore the file"
        )
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
    table: pd.DataFrame, participant_label: str, settings: Mapping[str, Any]
) -> pd.DataFrame:
    """Add a participant whose runs are not counted yet, or take back the counts of one."""
    name = f"sub-{participant_label}"
    names = table["participant_id"].tolist()
    rows: list[dict[Any, Any]] = table.to_dict("records")
    if name not in names:
        file = bisect(names, name) if names == sorted(names) else len(names)
        rows.insert(file, {"participant_id": name})
        names.insert(file, name)
    rows[names.index(name)] |= {
        "model": settings.get("model"),
        "seed": settings.get("seed"),
        **dict.fromkeys(_COUNTS, pd.NA),
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


def _counts_of(
    participant_label: str, root: Path, bolds: Iterable[PurePosixPath]
) -> dict[str, int]:
    """Count a participant's runs, prompts and volumes from the sidecars of its series."""
    mine = [file for file in bolds if parse_path(file).sub == participant_label]
    if not mine:
        raise DatasetError(
            f"{root}: sub-{participant_label} has no runs; record one before it is finished"
        )
    metadata = [read_sidecar(root / sidecar(file)) for file in mine]
    return {
        "n_runs": len(mine),
        "n_prompts": sum(int(entries.get("NumberOfPrompts", 0)) for entries in metadata),
        "n_volumes": sum(int(entries.get("NumberOfVolumes", 0)) for entries in metadata),
    }


def counted(
    table: pd.DataFrame, participant_label: str, root: Path, bolds: Iterable[PurePosixPath]
) -> pd.DataFrame:
    """Fill in a participant's counts."""
    row = table["participant_id"] == f"sub-{participant_label}"
    filled = table.copy()
    for name, count in _counts_of(participant_label, root, bolds).items():
        filled.loc[row, name] = count
    return filled


def disagreement(root: Path, bolds: Iterable[PurePosixPath], settings: Mapping[str, Any]) -> str:
    """Say where the table does not fit the runs and the settings; empty if it does."""
    table = read_participants(root)
    of_label: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in bolds:
        of_label[str(parse_path(file).sub)].append(file)
    listed = table["participant_id"].str.removeprefix("sub-")
    if wrong := sorted(of_label.keys() ^ set(listed)):
        return f"sub-{wrong[0]} is in the table or has runs, but not both"
    if listed.duplicated().any():
        return f"sub-{listed[listed.duplicated()].iloc[0]} is in the table twice"
    for row in table.dropna(subset=["n_runs"]).to_dict("records"):
        label = str(row["participant_id"]).removeprefix("sub-")
        counts = _counts_of(label, root, of_label[label])
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
