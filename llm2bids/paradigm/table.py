"""One table of a TOML file, read key by key with checks."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2bids.exceptions import ParadigmError

# What BIDS allows in a label: letters and digits.
LABEL = re.compile(r"[A-Za-z0-9]+")

# Largest integer that a paradigm may have, unless its key says otherwise: more is a slip.
LARGEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Table:
    """A TOML table that knows its file and its place in it."""

    path: Path
    prefix: str  # dotted name of the table in the file with a final dot, empty for the whole file
    values: Mapping[str, Any]

    def error(self, key: str, problem: str) -> ParadigmError:
        """Make the error that names file and key."""
        return ParadigmError(f"{self.path}: key '{self.prefix}{key}': {problem}")

    def check_keys(self, known: Iterable[str]) -> None:
        """Refuse keys that have no meaning."""
        names = list(known)
        for key in self.values:
            if key not in names:
                raise self.error(key, f"unknown. {suggest(key, names)}")

    def integer(
        self, key: str, default: int | None = None, *, minimum: int, maximum: int = LARGEST
    ) -> int:
        """Read an integer."""
        expected = f"an integer of {minimum} or more"
        value = self._typed(key, default, int, expected)
        if value < minimum:
            raise self._found(key, value, expected)
        if value > maximum:
            raise self._found(key, value, f"an integer from {minimum} to {maximum}")
        return int(value)

    def number(self, key: str, default: float, *, above: float, maximum: float) -> float:
        """Read a number in ``(above, maximum]``."""
        limit = "" if math.isinf(maximum) else f" and up to {maximum:g}"
        expected = f"a number above {above:g}{limit}"
        value = self._typed(key, default, int | float, expected)
        try:
            number = float(value)
        except OverflowError:  # TOML's integers have no limit in Python
            number = math.inf
        if not (math.isfinite(number) and above < number <= maximum):
            raise self._found(key, value, expected)
        return number

    def boolean(self, key: str, default: bool) -> bool:
        """Read true or false."""
        return bool(self._typed(key, default, bool, "true or false"))

    def text(self, key: str, default: str | None = None) -> str:
        """Read a text."""
        return str(self._typed(key, default, str, "a text"))

    def choice(self, key: str, choices: Iterable[str], default: str | None = None) -> str:
        """Read one of a few words."""
        words = list(choices)
        value = self._get(key, default, f"one of {', '.join(words)}")
        if value not in words:
            raise self.error(key, f"found {_short(value)}. {suggest(_short(value), words)}")
        return str(value)

    def label(self, key: str, value: object) -> str:
        """Check that a name is a BIDS label."""
        if not isinstance(value, str) or not LABEL.fullmatch(value):
            expected = "a BIDS label: letters A-Z, a-z and digits only, no space or underscore"
            raise self._found(key, value, expected)
        return value

    def table(self, key: str, *, required: bool = False) -> "Table":
        """Read a table within this one."""
        expected = f"a table [{self.prefix}{key}]"
        values = self._typed(key, None if required else {}, Mapping, expected)
        return Table(path=self.path, prefix=f"{self.prefix}{key}.", values=values)

    def _typed(self, key: str, default: object, kind: Any, expected: str) -> Any:
        value = self._get(key, default, expected)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self._found(key, value, expected)
        return value

    def _get(self, key: str, default: object, expected: str) -> Any:
        if key not in self.values and default is None:
            raise self.error(key, f"missing, expected {expected}. Add it to the file.")
        return self.values.get(key, default)

    def _found(self, key: str, value: object, expected: str) -> ParadigmError:
        return self.error(
            key, f"found {_short(value)}, expected {expected}. Change it in the file."
        )


def _short(value: object) -> str:
    """Show what was found, not more than fits a message."""
    try:
        shown = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        shown = "a number of thousands of digits"
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def read_text(file: Path, *, expected: str) -> str:
    """Read a text in UTF-8, with or without a mark at its beginning."""
    try:
        content = file.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        problem = "a folder" if file.is_dir() else "no such file"
        raise ParadigmError(
            f"{file}: found {problem}, expected {expected}. Correct the path."
        ) from None
    except OSError as error:
        raise ParadigmError(f"{file}: cannot be read ({error.strerror}).") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ParadigmError(
            f"{file}, line {line}: found byte 0x{content[error.start]:02x}, which is not UTF-8. "
            "Save it in the encoding UTF-8."
        ) from None


def suggest(word: str, known: Iterable[str]) -> str:
    """Say which known word comes nearest, and all known ones."""
    names = sorted(known)
    by_folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.5)
    listed = f"Expected one of: {', '.join(names)}."
    return f"Did you mean '{by_folded[near[0]]}'? {listed}" if near else listed
