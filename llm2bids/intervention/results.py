"""What an intervention found: tables, edits and what has to be said beside them, as files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from llm2bids.exceptions import InterventionError
from llm2bids.inference.statmap import write_json
from llm2bids.model.edit import Edit
from llm2bids.network.stored import to_plain
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json
from llm2bids.store.tables import read_table, write_table


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Tables of an intervention.

    Parameters
    ----------
    name : str
        Command, and folder of the results within ``group/``.
    stem : str
        What the names of its files begin with.
    tables : mapping of str to DataFrame
        By name, the first one is what the command is about.
    metadata : mapping
        What it was done with.
    notes : tuple of str
        What has to be said beside the numbers.
    edits : mapping of str to Edit
        Edits that were made, by label.
    n_shown : int
        Number of the tables, from the first, that `describe` shows.
    """

    name: str
    stem: str
    tables: Mapping[str, pd.DataFrame]
    metadata: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    edits: Mapping[str, Edit] = field(default_factory=dict)
    n_shown: int = 1

    def describe(self) -> str:
        """Say what came out.

        Returns
        -------
        str
            The first tables, and what has to be said beside them.
        """
        shown = list(self.tables.values())[: self.n_shown]
        texts = [
            table.to_string(index=False, na_rep="", float_format=lambda x: f"{x:.3g}")
            for table in shown
        ]
        return "\n\n".join([*texts, "\n".join(f"note: {note}" for note in self.notes)])

    def save(self, analysis_dir: Path) -> Path:
        """Write tables, description and edits.

        Parameters
        ----------
        analysis_dir : Path
            Results of `analyze`.

        Returns
        -------
        Path
            The folder, ``group/<name>``.
        """
        folder = analysis_dir / "group" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        # goes first and comes last: without it, tables of a run that was cut off are not read
        (folder / f"{self.stem}.json").unlink(missing_ok=True)
        for name, table in self.tables.items():
            write_table(folder / f"{self.stem}_{name}.tsv", table)
        content = {**self.metadata, "Notes": list(self.notes), "Tables": list(self.tables)}
        write_json(folder / f"{self.stem}.json", to_plain(content))
        for label, edit in self.edits.items():
            edit.save(folder / f"{label}_edit.json")
        return folder


def load_results(analysis_dir: Path, name: str) -> tuple[Result, ...]:
    """Read what `Result.save` wrote of one command, without the edits."""
    folder = analysis_dir / "group" / name
    results = []
    for path in data_files(folder, "*.json"):
        if path.name.endswith("_edit.json"):
            continue
        content = read_json(path)
        try:
            notes, names = tuple(content.pop("Notes")), list(content.pop("Tables"))
        except KeyError as error:
            raise InterventionError(f"{path}: lacks {error}; run llm2bids {name} again") from None
        tables = {part: read_table(folder / f"{path.stem}_{part}.tsv") for part in names}
        results.append(
            Result(name=name, stem=path.stem, tables=tables, metadata=content, notes=notes)
        )
    return tuple(results)
