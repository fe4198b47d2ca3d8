"""The static files of every dataset, from ``bids_template/``, with their blanks filled in."""

import json
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Any

from llm2bids.exceptions import DatasetError


def template_folder() -> Traversable:
    """Find ``bids_template``: in the installed package, else in the checkout."""
    package = files("llm2bids")
    installed = package / "bids_template"
    if installed.is_dir():
        return installed
    checkout = Path(str(package)).parent / "bids_template"
    if checkout.is_dir():
        return checkout
    raise DatasetError(
        f"bids_template is neither in {package} nor beside it; the installation is incomplete: "
        "install llm2bids again"
    )


def fill_text(name: str, fields: Mapping[str, object]) -> str:
    """Read a text file of the template and fill in its blanks."""
    return _substitute(_read(name), name=name, fields=fields)


def fill_json(name: str, fields: Mapping[str, object], **entries: Any) -> dict[str, Any]:
    """Read a JSON file of the template, fill in the blanks of its texts and set entries."""
    filled = _fill(json.loads(_read(name)), name=name, fields=fields)
    return {**filled, **entries}


def _read(name: str) -> str:
    return (template_folder() / name).read_text(encoding="utf-8")


def _substitute(text: str, *, name: str, fields: Mapping[str, object]) -> str:
    try:
        return Template(text).substitute(fields)
    except KeyError as error:
        raise DatasetError(
            f"bids_template/{name} needs a value for {error.args[0]!r}; give it among the fields"
        ) from None


def _fill(value: Any, *, name: str, fields: Mapping[str, object]) -> Any:
    if isinstance(value, str):
        return _substitute(value, name=name, fields=fields)
    if isinstance(value, list):
        return [_fill(item, name=name, fields=fields) for item in value]
    if isinstance(value, dict):
        return {
            _substitute(key, name=name, fields=fields): _fill(item, name=name, fields=fields)
            for key, item in value.items()
        }
    return value
