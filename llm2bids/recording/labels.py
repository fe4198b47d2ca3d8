"""Labels of events that contradict the strings that were shown, as in OpenNeuro ds000107."""

import re
import unicodedata
from collections.abc import Callable

import pandas as pd

_MOST = 0.5
"""Share of a label's strings that has to speak against it."""

_FEWEST = 4
"""Different strings of a label from which anything is said."""


def label_contradictions(words: pd.DataFrame) -> list[str]:
    """Say which trial types (n_words,) have strings that they cannot mean, a line each."""
    shown = words[["trial_type", "word"]].drop_duplicates()
    shown = shown.assign(word=shown["word"].str.casefold())
    named = {
        str(label): _naming(str(label), list(shown["trial_type"].unique()))
        for label in shown["trial_type"].unique()
    }
    lines = []
    for label, rows in shown.groupby("trial_type", sort=False):
        strings = rows["word"].drop_duplicates()
        if len(strings) < _FEWEST:
            continue
        for fault, wrong in (
            (_other_name(str(label), named), "are named after another"),
            (_not_consonants(str(label)), "have vowels or digits"),
            (_only_consonants(str(label)), "have no vowel"),
            (_not_named(str(label), named, shown), "are not named as those of other labels are"),
        ):
            faulty = strings[strings.map(fault).astype(bool)]
            if len(faulty) > _MOST * len(strings):
                examples = ", ".join(faulty.iloc[:3])
                lines.append(f"{label}: {len(faulty)} of {len(strings)} {wrong} ({examples})")
                break
    return lines


def _naming(label: str, labels: list[str]) -> Callable[[str], bool]:
    """Tell whether a string is a name with a number that stands for a label: scram_29."""
    words = re.findall(r"[^\W\d_]+", label.casefold())
    others = {w for o in labels if o != label for w in re.findall(r"[^\W\d_]+", o.casefold())}

    def stands_for(text: str) -> bool:
        stem = re.fullmatch(r"([^\W\d_]{4,})[_-]?\d+", text)
        return stem is not None and any(
            word.startswith(stem[1]) and word not in others for word in words
        )

    return stands_for


def _other_name(label: str, named: dict[str, Callable[[str], bool]]) -> Callable[[str], bool]:
    others = [stands_for for other, stands_for in named.items() if other != label]
    return lambda text: not named[label](text) and any(other(text) for other in others)


def _not_named(
    label: str, named: dict[str, Callable[[str], bool]], shown: pd.DataFrame
) -> Callable[[str], bool]:
    """Mark all strings of a label whose own names stand at other labels."""
    elsewhere = shown["word"][shown["trial_type"] != label].map(named[label]).any()
    return lambda text: bool(elsewhere) and not named[label](text)


def _not_consonants(label: str) -> Callable[[str], bool]:
    said = "consonant" in label.casefold()
    return lambda text: said and not (text.isalpha() and not _has_vowel(text))


def _only_consonants(label: str) -> Callable[[str], bool]:
    """Mark Latin strings without a vowel where the label does not speak of letters or nonsense."""
    said = re.search(r"consonant|letter|string|non-?sense|random|abbrev", label.casefold())
    return lambda text: (
        said is None and len(text) > 2 and text.isascii() and text.isalpha()
        and not _has_vowel(text)
    )  # fmt: skip


def _has_vowel(text: str) -> bool:
    plain = unicodedata.normalize("NFD", text)
    return any(sign in "aeiouyæœøı" for sign in plain)
