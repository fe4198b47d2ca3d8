"""The participants table: one row for each replicate."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from llm2bids.dataset.layout import parse_path
from llm2bids.dataset.settings import read_sidecar
from llm2bids.exceptions import DatasetError
from llm2bids.store.files import inside
from llm2bids.store.tables import read_table, to_numbers, write_table

PLACE = PurePosixPath("participants.tsv")
"""Place of the table."""

COLUMNS = ("participant_id", "model", "seed", "n_runs", "n_prompts", "n_volumes")
"""Its columns; ``participants.json`` describes them."""

_COUNTS = ("n_runs", "n_prompts", "n_volumes")


def read_participants(root: Path) -> pd.DataFrame:
    """Read the participants table."""
    path = inside(root, root / PLACE)
    if not path.exists():
        return _typed(pd.DataFrame(columns=list(COLUMNS)))
    table = read_table(path, text=("participant_id",))
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


def write_participants(path: Path, table: pd.DataFrame) -> None:
    """Write the participants table."""
    write_table(path, table.sort_values("participant_id"))


def with_participant(
    table: pd.DataFrame, participant_label: str, settings: Mapping[str, Any]
) -> pd.DataFrame:
    """Add a participant whose runs are not counted yet."""
    name = f"sub-{participant_label}"
    row = {
        "participant_id": name,
        "model": settings.get("model"),
        "seed": settings.get("seed"),
        **dict.fromkeys(_COUNTS, pd.NA),
    }
    others = table[table["participant_id"] != name]
    return _typed(pd.DataFrame([*others.to_dict("records"), row], columns=list(COLUMNS)))


def count_runs(table: pd.DataFrame) -> dict[str, int]:
    """Give the number of runs of each participant whose row has all counts."""
    full = table.dropna(subset=list(_COUNTS))
    names = full["participant_id"].str.removeprefix("sub-")
    return dict(zip(names.tolist(), full["n_runs"].astype(int).tolist(), strict=True))


def counts_of(participant_label: str, root: Path, bolds: Iterable[PurePosixPath]) -> dict[str, int]:
    """Count a participant's runs, prompts and volumes from the sidecars of its series."""
    mine = [place for place in bolds if parse_path(place).sub == participant_label]
    if not mine:
        raise DatasetError(
            f"{root}: sub-{participant_label} has no runs; record one before it is finished"
        )
    about = [read_sidecar(root / str(place).replace("_bold.nii.gz", "_bold.json")
                       .replace("_bold.nii", "_bold.json")) for place in mine]  # fmt: skip
    return {
        "n_runs": len(mine),
        "n_prompts": sum(int(one.get("NumberOfPrompts", 0)) for one in about),
        "n_volumes": sum(int(one.get("NumberOfVolumes", 0)) for one in about),
    }


def counted(
    table: pd.DataFrame, participant_label: str, root: Path, bolds: Iterable[PurePosixPath]
) -> pd.DataFrame:
    """Fill in a participant's counts."""
    row = table["participant_id"] == f"sub-{participant_label}"
    filled = table.copy()
    for name, count in counts_of(participant_label, root, bolds).items():
        filled.loc[row, name] = count
    return filled


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    counts = {name: table[name].astype("Int64") for name in _COUNTS}
    typed = table.assign(participant_id=table["participant_id"].astype("str"), **counts)
    return typed.sort_values("participant_id", ignore_index=True)[list(COLUMNS)]
