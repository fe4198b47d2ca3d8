"""JSON files that hold an object."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm2bids.exceptions import DatasetError
from llm2bids.store.files import refuse_missing


def read_json(
    path: Path, *, remedy: str = "restore it or record the dataset again"
) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    refuse_missing(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if "\\u" in text:  # half of a surrogate pair could not be written again
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not readable as JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path}: found a JSON {type(content).__name__}, expected an object; {remedy}"
        )
    return content


def to_json(value: Mapping[str, Any]) -> str:
    """Write JSON the way all files of a dataset have it: indented, with a last line break."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def with_own_keys(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Give the entries of `new`, and those of `old` that `new` has not, in the order of `old`."""
    merged = {key: _merged(new[key], value) if key in new else value for key, value in old.items()}
    return merged | {key: value for key, value in new.items() if key not in old}


def _merged(new: Any, old: Any) -> Any:
    both = isinstance(new, Mapping) and isinstance(old, Mapping)
    return with_own_keys(new, old) if both else new
