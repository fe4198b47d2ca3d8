"""Section: false-positive rates that ``llm2bids null`` measured, beside the maps."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from llm2bids.exceptions import NetworkError
from llm2bids.inference.null_results import JSON_NAME, NAMES
from llm2bids.inference.rates import LEVELS
from llm2bids.report.section import listed, render
from llm2bids.report.sources import Sources, read_object

NOT_CALIBRATED = (
    "The false-positive rate of this pipeline was not measured on this dataset: nothing on this "
    "page tells whether its nominal rates hold for this model."
)
"""What is said where no calibration was run."""


def calibration_command(sources: Sources) -> str:
    """Give the ``llm2bids null`` that measures the rates of the model that was recorded."""
    model = str(sources.dataset.settings.get("model"))
    name = "embedded" if model == "SmolLM2-135M-Instruct" else model
    return f"llm2bids null {name} {sources.analysis_dir.name}"


def calibration_body(sources: Sources) -> Markup | None:
    """Show the measured rates of every pipeline with their verdicts, where any were measured."""
    measured = _measured(sources)
    if measured is None:
        return None
    rows, metadata, differing = measured
    return render(
        "calibration.html", rows=rows, levels=LEVELS, metadata=metadata, differing=differing
    )


def null_rates(sources: Sources) -> dict[str, Any] | None:
    """Say how often the default pipeline is wrong, in parts of a sentence, where that is known."""
    rows, _, differing = _measured(sources) or ([], {}, [])
    for row in rows:
        if row["default"]:
            shares = [
                f"{cell['value']} of the units at {level:g}"
                for cell, level in zip(row["units"], LEVELS, strict=True)
            ]
            return {"units": listed(shares), "verdict": row["verdict"], "differing": differing}
    return None


def _measured(sources: Sources) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]] | None:
    """Read the rates: a row a pipeline, what was run, and in what that differs from the dataset."""
    if sources.analysis is None:
        return None
    path = sources.analysis / JSON_NAME
    content = read_object(path)
    if not content:
        return None
    try:
        rows = [_row(pipeline, content["rates"]) for pipeline in content["pipelines"]]
        metadata = dict(content["about"])
        return rows, metadata, differences(metadata, sources.dataset.settings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NetworkError(
            f"{path}: is not what llm2bids writes ({type(error).__name__}: {error}); run "
            f"`{calibration_command(sources)}` again"
        ) from None


def differences(metadata: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Say in what the null runs differ from the dataset; empty where the rates hold for it.

    >>> differences({"model": "a", "prompts_on": 8}, {"model": "a", "prompts_per_block": 6})
    ['8 prompts per block instead of 6']
    """
    differing = []
    if metadata.get("weights_sha256") != settings.get("weights_sha256"):
        differing.append(f"the model {metadata.get('model')} instead of {settings.get('model')}")
    for name, key, what in (
        ("prompts_on", "prompts_per_block", "prompts per block"),
        ("tokens_per_prompt", "tokens_per_prompt", "tokens per prompt"),
    ):
        if metadata.get(name) != settings.get(key):
            differing.append(f"{metadata.get(name)} {what} instead of {settings.get(key)}")
    if metadata.get("confounds"):
        differing.append(
            f"the confounds {', '.join(map(str, metadata['confounds']))} in the models"
        )
    return differing


def _row(pipeline: Mapping[str, Any], rates: list[Mapping[str, Any]]) -> dict[str, Any]:
    own = [rate for rate in rates if rate["pipeline"] == pipeline["key"]]
    units = {float(rate["nominal"]): rate for rate in own if rate["kind"] == "unit"}
    return {
        "label": str(pipeline["label"]),
        "default": bool(pipeline["default"]),
        "options": str(pipeline["options"]),
        "verdict": str(pipeline["verdict"]),
        "units": [_cell(units.get(level)) for level in LEVELS],
        "found": [
            f"{NAMES.get(str(rate['kind']), str(rate['kind']))} "
            f"{round(float(rate['measured']) * int(rate['n']))} of {int(rate['n'])}"
            for rate in own
            if rate["kind"] != "unit"
        ],
    }


def _cell(rate: Mapping[str, Any] | None) -> dict[str, str]:
    if rate is None:
        return {"value": "–", "interval": "", "verdict": ""}
    return {
        "value": f"{float(rate['measured']):.2g}",
        "interval": f"{float(rate['low']):.2g} to {float(rate['high']):.2g}",
        "verdict": str(rate["verdict"]),
    }
