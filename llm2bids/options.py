"""Options, each once: one field of a frozen dataclass is a keyword, a flag and a row of the docs.

Verbs take the fields of such dataclasses as flat keywords, `llm2bids.cli.options` makes flags of
them, ``scripts/options_table.py`` the reference pages. An option's text is the help of its flag,
its entry in the docstrings of the verbs, and its row in ``docs/reference/command-line.md``.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from llm2bids.exceptions import UsageError

Verb = TypeVar("Verb", bound=Callable[..., Any])


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

    A flag may end with what stands for its value, as in ``"--mask IMG"``.
    """
    *spellings, last = flag.split()
    if spellings and not last.startswith("-"):
        flag, settings = " ".join(spellings), {"metavar": last, **settings}
    argument = Argument(default, flag, text, group, shown, settings, parse, stored)
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


def check_values(options: Any, least: Mapping[str, float]) -> None:
    """Refuse options that are none of their choices, below their least values, or no numbers."""
    check_choices(options)
    for name, bound in least.items():
        given = getattr(options, name)
        values = given if isinstance(given, Sequence) else (given,)
        if not values or not all(bound <= value < math.inf for value in values):
            flag = options.__dataclass_fields__[name].metadata["argument"].flag.split()[0]
            shown = " ".join(f"{value:g}" for value in values) or "empty"
            raise UsageError(f"{flag} is {shown}; expected {bound:g} or more")


def check_choices(options: Any) -> None:
    """Refuse values that are not among the choices of their options."""
    for name, argument in arguments(type(options)).items():
        choices, given = argument.settings.get("choices", ()), getattr(options, name)
        known = [argument.parse(choice) if argument.parse else choice for choice in choices]
        if known and given is not None and given not in known:
            flag, expected = argument.flag.split()[0], ", ".join(map(repr, known))
            raise UsageError(f"{name} ({flag}) is {given!r}; expected {expected}")


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


def takes_options(*kinds: type) -> Callable[[Verb], Verb]:
    """Spell the options out in the signature and the docstring of a verb that takes them."""

    def spell_out(verb: Verb) -> Verb:
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
