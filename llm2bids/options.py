"""Options, each once: one field of a frozen dataclass is a keyword, a flag and a row of the docs.

Verbs take the fields of such dataclasses as flat keywords, `llm2bids.cli.options` makes flags of
them, ``scripts/options_table.py`` the reference pages. An option's text is the help of its flag,
its entry in the docstrings of the verbs, and its row in ``docs/reference/command-line.md``.
"""

import inspect
import math
import operator
import os
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from llm2bids.exceptions import UsageError

Verb = TypeVar("Verb", bound=Callable[..., Any])

# What types of values are called
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    Path: "a path",
    NoneType: "None",
}

# What bounds a number, and how that is said
_BOUNDS: dict[str, tuple[Callable[[Any, float], bool], str]] = {
    "least": (operator.ge, "{:g} or more"),
    "above": (operator.gt, "above {:g}"),
    "below": (operator.lt, "below {:g}"),
    "most": (operator.le, "at most {:g}"),
}


@dataclass(frozen=True)
class Argument:
    """How an option is spelled on the command line."""

    default: Any
    flag: str  # other spellings after a space
    text: str
    group: str  # heading in the help
    shown_default: str  # as the reference page has it
    settings: dict[str, Any]  # for `argparse.ArgumentParser.add_argument`
    parse: Callable[[str], Any] | None  # from the text of the flag to the value
    stored: bool  # kept as it is among the settings of a dataset, and compared
    bounds: dict[str, float]  # of a number, or of each of several, by the words of `_BOUNDS`

    @property
    def dest(self) -> str:
        """Name of the flag among parsed arguments, where another option of it came first."""
        return self.flag.split()[0].removeprefix("--").replace("-", "_")


def option(
    default: Any,
    flag: str,
    text: str,
    *,
    group: str,
    shown: str = "",
    stored: bool = False,
    parse: Callable[[str], Any] | None = None,
    **settings: Any,
) -> Any:
    """Make the field of an option; `settings` are argparse's, `shown` its default for readers.

    Bounds of a number are settings too: ``least``, ``above``, ``below``, ``most``.

    A flag may end with what stands for its value, as in ``"--mask IMG"``.
    """
    *spellings, last = flag.split()
    if spellings and not last.startswith("-"):
        flag, settings = " ".join(spellings), {"metavar": last, **settings}
    bounds = {word: settings.pop(word) for word in _BOUNDS if word in settings}
    argument = Argument(default, flag, text, group, shown, settings, parse, stored, bounds)
    return field(default=default, metadata={"argument": argument})


def shared(kind: type, name: str, *changed_default: Any, **changes: Any) -> Any:
    """Take over an option of another class, with another default or changes of what it says."""
    item: Field[Any] = kind.__dataclass_fields__[name]  # type: ignore[attr-defined]
    (default,) = changed_default or (item.default,)
    argument = replace(item.metadata["argument"], default=default, **changes)
    return field(default=default, metadata={"argument": argument})


def stored_settings(options: Any) -> dict[str, Any]:
    """List the options that are kept as they are among the settings of a dataset."""
    return {
        item.name: getattr(options, item.name)
        for item in fields(options)
        if item.metadata["argument"].stored
    }


def chosen(options: Any, *names: str) -> dict[str, Any]:
    """Give some options as keywords."""
    return {name: getattr(options, name) for name in names}


class Options:
    """Base of dataclasses of options: refuses what is no value of theirs, whoever gives it."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name, argument in arguments(type(self)).items():
            hint = hints[name]
            if hint is Any:  # an image or an array: read where it is used
                continue
            value = _plain(getattr(self, name), hint)
            if value is None and argument.default == ():
                value = ()
            expected = _expected(value, hint, argument)
            if expected:
                flag = argument.flag.split()[0]
                raise UsageError(f"{name} ({flag}) is {value!r:.80}; expected {expected}")
            object.__setattr__(self, name, value)


def _expected(value: Any, hint: Any, argument: Argument) -> str:
    """Say what an option takes, by type, choices and bounds; empty where it takes the value."""
    if not fits(value, hint):
        return in_words(hint)
    values = [part for part in (value if _is_list(value) else [value]) if part is not None]
    if _is_list(value) and not values and argument.default != ():
        return "one or more"
    if "" in values:
        return "text that is not empty"
    choices = argument.settings.get("choices", ())
    known = [argument.parse(choice) if argument.parse else choice for choice in choices]
    if known and any(part not in known for part in values):
        return ", ".join(map(repr, known))
    numbers = [part for part in values if isinstance(part, Real)]
    if all(_BOUNDS[word][0](n, bound) for word, bound in argument.bounds.items() for n in numbers):
        return ""
    return " and ".join(_BOUNDS[word][1].format(n) for word, n in argument.bounds.items())


def _plain(value: Any, hint: Any) -> Any:
    """Give what stands for a value as that value: lists as tuples, numbers as those of Python.

    Lists are of any kind (sets, arrays, columns of a table, generators), numbers and flags numpy's
    or torch's too, paths whatever is one; ``torch.device("cpu")`` is text.
    """
    if hint is Any:
        return value
    leaves = _leaves(hint)
    if _takes_list(hint) and (_is_list(value) or isinstance(value, Iterator)):
        return tuple(_plain(part, hint) for part in value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | int):
        return value
    if isinstance(value, Real):
        number = value if isinstance(value, Integral) else float(value)
        only_whole = int in leaves and float not in leaves and number % 1 == 0
        return int(number) if only_whole or isinstance(value, Integral) else number
    if type(value).__module__ == "torch" and type(value).__name__ in ("device", "dtype"):
        return str(value).removeprefix("torch.")
    only_path = Path in leaves and str not in leaves
    is_path = isinstance(value, os.PathLike) or (isinstance(value, str) and only_path)
    return Path(value) if is_path and Path in leaves else value


def _takes_list(hint: Any) -> bool:
    kinds = [get_origin(kind) for kind in (hint, *get_args(hint))]
    return any(isinstance(kind, type) and issubclass(kind, Sequence) for kind in kinds)


def _is_list(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value has the type of an annotation; text is a path, and a tuple a list.

    >>> fits("a", Sequence[str]), fits(["a"], Sequence[str]), fits(True, int | None)
    (False, True, False)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, kind) for kind in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if hint in (int, float):
        if isinstance(value, bool):
            return False
        if isinstance(value, Integral):  # of any length, which no float may hold
            return hint is int or abs(int(value)) < 2**1023
        return hint is float and isinstance(value, Real) and math.isfinite(value)
    kind = origin or hint
    if hint is Any or not isinstance(kind, type):
        return True
    if inner and issubclass(kind, Mapping):
        return isinstance(value, kind) and all(
            fits(key, inner[0]) and fits(entry, inner[1]) for key, entry in value.items()
        )
    if not inner or not issubclass(kind, Sequence):
        return isinstance(value, str | Path if kind is Path else kind)
    if not _is_list(value) or (kind is tuple and ... not in inner and len(value) != len(inner)):
        return False
    return all(fits(part, inner[0]) for part in value)


def in_words(hint: Any) -> str:
    """Say what an annotation stands for.

    >>> in_words(Sequence[str] | None), in_words(float)
    ('a list in which each is text or None', 'a finite number')
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(in_words, inner)))
    if origin is Literal:
        return ", ".join(map(repr, inner))
    if inner and issubclass(origin, Sequence):
        return f"a list in which each is {in_words(inner[0])}"
    return _WORDS.get(hint, "a mapping" if inner else str(getattr(hint, "__name__", hint)))


def none_or_name(text: str) -> str | None:
    """Read a flag that takes a name or ``none``."""
    return None if text == "none" else text


def arguments(*kinds: type) -> dict[str, Argument]:
    """List the arguments of the command line, by the names of their options."""
    return {
        item.name: _argument(item)
        for kind in kinds
        for item in fields(kind)
        if "argument" in item.metadata
    }


def _argument(item: "Field[Any]") -> Argument:
    """Complete an argument with what the option's type and default say."""
    argument: Argument = item.metadata["argument"]
    settings = {"default": item.default, **argument.settings}
    shown = argument.shown_default or ("none" if item.default in (None, ()) else str(item.default))
    leaves = _leaves(item.type)
    if argument.parse is None and str not in leaves:
        for kind, metavar in ((int, "N"), (float, "X"), (Path, "FILE")):
            if kind in leaves:
                settings = {"type": kind, "metavar": metavar, **settings}
    for hint in (item.type, *get_args(item.type)):
        if get_origin(hint) is Literal:
            settings = {"choices": get_args(hint), **settings}
    if isinstance(item.default, bool):
        settings["action"] = "store_false" if item.default else "store_true"
        shown = argument.shown_default or "off"
    elif settings.get("action") == "append":
        settings["default"] = None  # argparse would append to the default
    elif argument.parse is not None:
        settings["default"] = shown
    return replace(argument, shown_default=shown, settings=settings)


def _leaves(hint: Any) -> frozenset[Any]:
    """List the types that an annotation is made of.

    >>> int in _leaves(tuple[int, ...] | None), str in _leaves(int | None)
    (True, False)
    """
    inner = get_args(hint)
    return frozenset().union(*map(_leaves, inner)) if inner else frozenset({hint})


def checked(verb: Verb) -> Verb:
    """Refuse arguments of a verb that do not have the types of its annotations."""
    signature = inspect.signature(verb)

    @wraps(verb)
    def call(*given: Any, **keywords: Any) -> Any:
        bound = signature.bind_partial(*given, **keywords)
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            hint = parameter.annotation
            if hint is signature.empty or parameter.kind is parameter.VAR_KEYWORD:
                continue
            bound.arguments[name] = value = _plain(value, hint)
            if not fits(value, hint):
                shown = reprlib.repr(value)  # a dataset would fill pages
                raise UsageError(f"{name} is {shown}; expected {in_words(hint)}")
        return verb(*bound.args, **bound.kwargs)

    return cast(Verb, call)


def takes_options(*kinds: type) -> Callable[[Verb], Verb]:
    """Spell the options out in the signature and the docstring of a verb that takes them."""

    def spell_out(verb: Verb) -> Verb:
        verb = checked(verb)
        signature, taken = inspect.signature(verb), arguments(*kinds)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        flat = {name: p for kind in kinds for name, p in inspect.signature(kind).parameters.items()}
        parameters = [*own, *(flat[name] for name in taken)]
        verb.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        entries = "\n".join(
            f"{name}\n    {argument.text[0].upper()}{argument.text[1:]}."
            for name, argument in taken.items()
        )
        # without its indentation, which Python 3.13 takes off and older ones leave
        text = inspect.cleandoc(verb.__doc__ or "")
        verb.__doc__ = re.sub(r"\*\*options\n    .*", lambda _: entries, text)
        return verb

    return spell_out


def split_options(options: Mapping[str, Any], *kinds: type) -> tuple[Any, ...]:
    """Make each dataclass of its own among flat keywords; a keyword that none has is refused."""
    names = [{item.name for item in fields(kind)} for kind in kinds]
    unknown = set(options).difference(*names)
    if unknown:
        raise TypeError(f"unexpected keyword argument {', '.join(sorted(map(repr, unknown)))}")
    return tuple(
        kind(**{name: value for name, value in options.items() if name in own})
        for kind, own in zip(kinds, names, strict=True)
    )
