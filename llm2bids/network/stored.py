"""Values as JSON and back, by the types of their dataclasses' fields."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from llm2bids.options import fits, in_words

T = TypeVar("T")

_APART = "apart"  # key of the metadata of fields that are stored in files of their own


def apart() -> Any:
    """Make a dataclass field that is stored in files of its own."""
    return dataclasses.field(metadata={_APART: True})


def to_plain(value: Any) -> Any:
    """Turn dataclasses, tables, arrays and sets into what JSON can hold; NaN becomes null.

    Of a dataclass that lists names of properties in `derived`, these are written too, for readers.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if _APART not in field.metadata]
        names += getattr(value, "derived", ())
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, pd.DataFrame):
        return to_plain(value.to_dict("records"))
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    if value is pd.NA:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(kind: type[T], content: Mapping[str, Any], **stored_apart: Any) -> T:
    """Make a dataclass or a named tuple of what `to_plain` gave, and what is stored apart."""
    hints = typing.get_type_hints(kind)
    own: Any = kind
    is_tuple = issubclass(kind, tuple)
    names = own._fields if is_tuple else [field.name for field in dataclasses.fields(own)]
    values = {
        name: _typed(hints[name], content[name]) for name in names if name not in stored_apart
    }
    return kind(**values, **stored_apart)


def _typed(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [kind for kind in arguments if kind is not type(None)]
        return None if value is None else _typed(inner[0], value)
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(Any, hint), value)
    is_list = origin in (np.ndarray, tuple, frozenset)
    if not (isinstance(value, list) if is_list else hint is float or fits(value, hint)):
        expected = "a list" if is_list else in_words(hint)
        raise TypeError(f"found {str(value)[:60]!r}, expected {expected}")
    if origin is np.ndarray:
        dtype = typing.get_args(arguments[1])[0]
        return np.array(value, dtype=object).astype(dtype)
    if origin is tuple:
        return tuple(_typed(arguments[0], part) for part in value)
    if origin is frozenset:
        return frozenset(_typed(arguments[0], part) for part in value)
    if origin is dict:
        return {key: _typed(arguments[1], part) for key, part in value.items()}
    if hint is float:
        return math.nan if value is None else float(value)
    return value
