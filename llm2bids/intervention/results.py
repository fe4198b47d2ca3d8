"""What an intervention did: tables, edits and what has to be said beside them, as files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from llm2bids.exceptions import DatasetError, InterventionError
from llm2bids.inference.statmap import write_json
from llm2bids.model.edit import Edit
from llm2bids.network.stored import to_plain
from llm2bids.store.files import data_files
from llm2bids.store.json import read_json
from llm2bids.store.tables import read_table, write_table


@dataclass(frozen=True, kw_only=True, eq=False)
class InterventionResult:
    """Tables of a lesion, of steering, of targets or of a monitor, and what they say.

    Parameters
    ----------
    name : str
        Command, and folder of the results within ``group/``.
    stem : str
        What the names of its tables begin with.
    tables : mapping of str to DataFrame
        By name; the first one is what the command is about.
    metadata : mapping
        What was done, with which model, on which text.
    notes : tuple of str
        What has to be said beside the numbers.
    edits : mapping of str to Edit
        Edits that were made, by the names of their files; not read back.
    n_shown : int
        Number of the tables, from the first, that `describe` shows.
    columns : sequence of str
        Columns that `describe` shows of them, where these are not all.
    """

    name: str
    stem: str
    tables: Mapping[str, pd.DataFrame]
    metadata: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    edits: Mapping[str, Edit] = field(default_factory=dict)
    n_shown: int = 1
    columns: Sequence[str] = ()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(table)} rows" for name, table in self.tables.items())
        return f"InterventionResult({self.stem}: {sizes})"

    def describe(self) -> str:
        """Say what came out.

        Returns
        -------
        str
            The first tables, and what has to be said beside them.
        """
        texts = [
            table.to_string(
                index=False,
                columns=self.columns or None,
                na_rep="",
                float_format=lambda x: f"{x:.3g}",
            )
            for table in list(self.tables.values())[: self.n_shown]
        ]
        return "\n\n".join([*texts, "\n".join(f"note: {note}" for note in self.notes)])

    def save(self, analysis_dir: Path) -> Path:
        """Write tables, description and edits, in place of what the same command left there.

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
        for old in data_files(folder, f"{self.stem}_*"):
            old.unlink()
        for name, table in self.tables.items():
            write_table(folder / f"{self.stem}_{name}.tsv", table)
        for label, edit in self.edits.items():
            edit.save(folder / f"{label}_edit.json")
        # names of text columns: a topic may be called 1984
        texts = {
            name: [str(column) for column in table if not is_numeric_dtype(table[column])]
            for name, table in self.tables.items()
        }
        content = {**self.metadata, "Notes": list(self.notes), "Tables": texts}
        write_json(folder / f"{self.stem}.json", to_plain(content))
        return folder


def load_results(analysis_dir: Path, name: str) -> tuple[InterventionResult, ...]:
    """Read what `InterventionResult.save` wrote of one command, without the edits."""
    folder = analysis_dir / "group" / name
    results = []
    for path in data_files(folder, "*.json"):
        if path.name.endswith("_edit.json"):
            continue
        try:
            content = read_json(path)
            notes, texts = tuple(content.pop("Notes")), dict(content.pop("Tables"))
            tables = {
                part: read_table(folder / f"{path.stem}_{part}.tsv", text=tuple(columns))
                for part, columns in texts.items()
            }
        except (DatasetError, KeyError, TypeError, ValueError) as error:
            raise InterventionError(f"{path}: lacks {error}; run llm2bids {name} again") from None
        results.append(
            InterventionResult(
                name=name, stem=path.stem, tables=tables, metadata=content, notes=notes
            )
        )
    return tuple(results)
