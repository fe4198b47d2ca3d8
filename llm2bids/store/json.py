"""JSON files that hold an object."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm2bids.exceptions import DatasetError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if "\\u" in text:  # half of a surrogate pair could not be written again
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: not readable as JSON ({error}); restore it or record the dataset again"
        ) from None
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path}: found a JSON {type(content).__name__}, expected an object; restore the "
            "or record the dataset again"
        )
    return content


def to_json(value: Mapping[str, Any]) -> str:
    """Write JSON the way all files of a dataset have it: indented, with a last line break."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
