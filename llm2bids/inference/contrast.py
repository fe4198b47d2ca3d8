"""Contrasts: expressions over the columns of a design matrix, and their BIDS labels."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from nilearn.glm.contrasts import expression_to_contrast_vector

from llm2bids.exceptions import InferenceError

_WORDS = (("-", "Minus"), ("+", "Plus"), ("*", "Times"), ("/", "Over"), (".", "Point"))


def contrast_label(expression: str) -> str:
    """Turn a contrast expression into a BIDS label, as nilearn names its maps.

    >>> contrast_label("tea - coffee")
    'teaMinusCoffee'
    >>> contrast_label("0.5 * tea")
    '0Point5TimesTea'
    """
    for sign, word in _WORDS:
        expression = expression.replace(sign, f" {word} ")
    words = re.findall(r"[A-Za-z0-9]+", expression)
    return "".join([words[0], *(word[0].upper() + word[1:] for word in words[1:])] if words else "")


def named_contrasts(
    contrasts: Mapping[str, str] | Sequence[str] | None, trial_types: Sequence[str]
) -> dict[str, str]:
    """Give every contrast a BIDS label.

    >>> named_contrasts(None, ["tea", "coffee"])
    {'tea': 'tea', 'coffee': 'coffee'}
    >>> named_contrasts(["tea - coffee"], [])
    {'teaMinusCoffee': 'tea - coffee'}
    """
    if contrasts is None:
        contrasts = list(trial_types)
    pairs = (
        list(contrasts.items())
        if isinstance(contrasts, Mapping)
        else [(contrast_label(expression), expression) for expression in contrasts]
    )
    labels = [label for label, _ in pairs]
    for label, expression in pairs:
        if not re.fullmatch("[A-Za-z0-9]+", label) or labels.count(label) > 1:
            raise InferenceError(
                f"contrast {expression!r}: its label {label!r} is not unique and alphanumeric; "
                "give {label: expression} with labels of letters and digits"
            )
    return dict(pairs)


def contrast_vector(expression: str, design: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Evaluate a contrast expression on the columns of a design matrix, with nilearn.

    Shape of the result: (n_columns,).

    >>> contrast_vector("tea - coffee", pd.DataFrame(columns=["coffee", "tea", "constant"]))
    array([-1.,  1.,  0.])
    """
    columns = [str(column) for column in design.columns]
    try:
        vector = np.asarray(expression_to_contrast_vector(expression, columns), dtype=np.float64)
    except (ValueError, SyntaxError):
        vector = np.zeros(0)
    if vector.shape != (len(columns),) or not vector.any():
        raise InferenceError(
            f"contrast {expression!r} does not exist here: expected an expression over "
            f"{', '.join(columns)}; tasks of different runs are contrasted at the group level"
        )
    return vector


def has_contrast(expression: str, trial_types: Sequence[str]) -> bool:
    """Say whether an expression can be evaluated over these trial types.

    >>> has_contrast("tea - coffee", ["tea"])
    False
    """
    try:
        contrast_vector(expression, pd.DataFrame(columns=[*trial_types, "constant"]))
    except InferenceError:
        return False
    return True
