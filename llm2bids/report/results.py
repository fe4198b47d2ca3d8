"""Reading what was found about the networks: ``findings.json`` of an analysis."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from llm2bids.exceptions import NetworkError

FINDINGS = Path("group", "findings", "findings.json")
"""Where the group level puts what it finds."""

COMPARED = {
    "participants": "Split halves of the participants",
    "prompts": "Split halves of the prompts",
    "single_run": "Single participants",
}
"""What repeatability compares, by the beginning of its measures' names."""

PAIR = ("task_a", "task_b", "correlation", "dice", "chance")
CONTROL = ("control", "measure", "text", "real", "value", "low", "high", "n_draws")
POINT = ("n_tokens", "n_prompts", "accuracy", "low", "high")
"""What each pair of tasks, each control, and each point of a curve, has to say."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Identified:
    """How well tasks are identified."""

    n_correct: int
    n_tests: int
    low: float  # 95 % interval of the accuracy
    high: float
    chance: float
    method: str
    note: str
    confusion: pd.DataFrame  # counts, task shown by task identified
    controls: list[dict[str, Any]]
    curves: dict[str, pd.DataFrame]  # by "prompts" and "tokens"

    @property
    def accuracy(self) -> float:
        """Share of maps whose task was identified."""
        return self.n_correct / max(self.n_tests, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """What was found; None or empty where it was not computed."""

    warnings: tuple[str, ...] = ()
    table: list[dict[str, Any]] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(default_factory=list)
    overlap: dict[str, Any] = field(default_factory=dict)
    pairs: pd.DataFrame | None = None
    repeatability: dict[str, pd.DataFrame] = field(default_factory=dict)
    icc: dict[str, Any] = field(default_factory=dict)
    identification: Identified | None = None
    controls: list[dict[str, Any]] = field(default_factory=list)
    control_about: dict[str, str] = field(default_factory=dict)


def read_results(analysis: Path | None) -> Results:
    """Read the findings of an analysis; empty where there are none."""
    if analysis is None:
        return Results()
    path = analysis / FINDINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return _results(found)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise NetworkError(
            f"{path}: is not what llm2bids writes ({type(error).__name__}: {error}); run "
            "`llm2bids analyze BIDS_DIR OUT_DIR group` again"
        ) from None


def _results(found: Mapping[str, Any]) -> Results:
    overlap, repeatability = found.get("overlap") or {}, found.get("repeatability") or {}
    return Results(
        warnings=tuple(str(warning) for warning in found.get("warnings", [])),
        table=_rows(found.get("table"), "finding", "measure", "value"),
        networks=_rows(
            found.get("networks"),
            "label",
            "against",
            "n_fdr",
            "n_fdr_anywhere",
            "alpha",
            "top_percent",
            "table",
        ),
        overlap={key: overlap.get(key) for key in ("share", "confidence", "n_participants")},
        pairs=pd.DataFrame(_rows(overlap["pairs"], *PAIR)) if overlap else None,
        repeatability=_compared(repeatability),
        icc=dict(repeatability.get("icc") or {}),
        identification=_identified(found.get("identification") or {}),
        controls=_rows((found.get("controls") or {}).get("rows"), *CONTROL),
        control_about=dict((found.get("controls") or {}).get("about") or {}),
    )


def _compared(found: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Part the columns of the table of repeatability by what was compared."""
    table = pd.DataFrame(found.get("tasks", []))
    parts = {}
    for name in COMPARED:
        columns = {
            column: column.removeprefix(f"{name}_")
            for column in table.columns
            if column.startswith(f"{name}_")
        }
        if f"{name}_r" in columns:
            part = table[list(columns)].astype(float).rename(columns=columns)
            parts[name] = part.assign(task=table["task"])
    return parts


def _identified(found: Mapping[str, Any]) -> Identified | None:
    if not found:
        return None
    tasks = [str(task) for task in found["tasks"]]
    curves = {
        str(name): pd.DataFrame(_rows(rows, *POINT))
        for name, rows in found.get("curve", {}).items()
        if rows
    }
    return Identified(
        n_correct=int(found["n_correct"]),
        n_tests=int(found["n_tests"]),
        low=float(found["low"]),
        high=float(found["high"]),
        chance=float(found["chance"]),
        method=str(found.get("method", "")),
        note=str(found.get("note", "")),
        confusion=pd.DataFrame(found["confusion"], index=tasks, columns=tasks),
        controls=_rows(found.get("controls"), "name", "mean", "low", "high", "n_draws", "p_value"),
        curves=curves,
    )


def _rows(rows: Any, *needed: str) -> list[dict[str, Any]]:
    """Check that every row says what the page shows."""
    for row in rows or []:
        if absent := [name for name in needed if name not in row]:
            raise KeyError(f"{', '.join(absent)} in {row}")
    return list(rows or [])
