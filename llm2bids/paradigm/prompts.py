"""Prompt banks: tables of prompts, shipped or the user's own, read with every check."""

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from llm2bids.exceptions import ParadigmError
from llm2bids.paradigm.table import LABEL, read_text
from llm2bids.paradigm.task import Paradigm, Prompt

# Folder of the shipped banks, one file ``<condition>.tsv`` each.
BANKS_FOLDER = Path(__file__).parent / "banks"

# Columns that a bank must have; others may stand beside them and are left aside.
COLUMNS = ("prompt_id", "condition", "topic", "text")

_BANK = f"a prompt bank (tab-separated values with the columns {', '.join(COLUMNS)})"


def read_bank(path: str | Path) -> tuple[Prompt, ...]:
    """Read a prompt bank."""
    file = Path(path)
    rows = _read_rows(file)
    _, header = next(rows, (1, []))
    indices = _find_columns(file, header)
    placed: list[tuple[str, Prompt]] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise ParadigmError(
                f"{file}, line {line}: found {len(cells)} cells, expected {len(header)}, as in the "
                f"first line. Part cells by single tabs; put a cell that holds a tab in quotes."
            )
        prompt = _make_prompt(file, line, *(cells[index] for index in indices))
        placed.append((f"{file}, line {line}", prompt))
    if not placed:
        raise ParadigmError(f"{file}: found no prompts. Add a row for each prompt.")
    _check_unique(placed)
    return tuple(prompt for _, prompt in placed)


def load_banks(
    paradigm: Paradigm, *, without: Collection[str] = ()
) -> dict[str, tuple[Prompt, ...]]:
    """Read the banks that a paradigm draws from; `without` some prompts, by their ids."""
    # a bare file name is a shipped one
    files = {
        condition: BANKS_FOLDER / name if Path(name).name == name else Path(name)
        for condition, name in paradigm.banks
    }
    tables = {file: read_bank(file) for file in dict.fromkeys(files.values())}
    banks: dict[str, tuple[Prompt, ...]] = {}
    placed: list[tuple[str, Prompt]] = []
    for condition, file in files.items():
        table = tables[file]
        bank = [prompt for prompt in table if prompt.condition == condition]
        if not bank:
            problem = ", ".join(sorted({prompt.condition for prompt in table}))
            raise ParadigmError(
                f"{file}: found no prompt of condition '{condition}', but of: {problem}. "
                f"Correct the column 'condition', or name another file for '{condition}' under "
                f"[banks] in paradigm '{paradigm.name}'."
            )
        placed += [(f"{file}, prompt '{prompt.prompt_id}'", prompt) for prompt in bank]
        banks[condition] = tuple(prompt for prompt in bank if prompt.prompt_id not in without)
    _check_unique(placed)
    return banks


def _read_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line that a row begins on, from 1, and its cells; empty lines are left out."""
    reader = csv.reader(
        io.StringIO(read_text(file, expected=_BANK), newline=""), delimiter="\t", strict=True
    )
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ParadigmError(
                f"{file}, line {line}: found a cell whose quotes do not fit ({error}). A cell that "
                f'begins with a quote mark is put in quotes as a whole, with each " in it doubled.'
            ) from None
        if cells is None:
            return
        if cells:
            yield line, cells


def _find_columns(file: Path, header: list[str]) -> list[int]:
    for column in COLUMNS:
        if header.count(column) != 1:
            problem = "twice" if column in header else "not"
            raise ParadigmError(
                f"{file}, line 1: column '{column}' is {problem} there, found: "
                f"{', '.join(header) or 'nothing'}; expected once each, parted by tabs: "
                f"{', '.join(COLUMNS)}."
            )
    return [header.index(column) for column in COLUMNS]


def _make_prompt(
    file: Path, line: int, prompt_id: str, condition: str, topic: str, text: str
) -> Prompt:
    problem = ""
    if not prompt_id or re.search(r"\s", prompt_id) or not prompt_id.isprintable():
        problem = f"column 'prompt_id': found {prompt_id!r}, expected a name without spaces"
    elif "\0" in topic + text:
        problem = "found a zero byte, expected text"
    elif not LABEL.fullmatch(condition):
        problem = f"column 'condition': found {condition!r}, expected letters A-Z, a-z and digits"
    elif not text.strip():
        problem = "column 'text': found nothing, expected a prompt"
    if problem:
        raise ParadigmError(f"{file}, line {line}: {problem}. Correct the row or take it out.")
    return Prompt(prompt_id=prompt_id, condition=condition, topic=topic, text=text)


def _check_unique(placed: Iterable[tuple[str, Prompt]]) -> None:
    """Refuse an identifier or a text (but for case and spaces) that is there twice."""
    seen: dict[tuple[str, str], str] = {}
    for where, prompt in placed:
        keys = {"prompt_id": prompt.prompt_id, "text": " ".join(prompt.text.casefold().split())}
        for column, key in keys.items():
            first = seen.setdefault((column, key), where)
            if first != where:
                raise ParadigmError(
                    f"{where}: column '{column}': found {getattr(prompt, column)!r} again, after "
                    f"{first}. Each is expected once; take one out."
                )
