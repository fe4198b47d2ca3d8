"""The file of a BIDS Stats Model: read, and refused by name where it asks what is not computed."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from llm2bids.exceptions import UsageError

# Levels of nodes, from the runs up.
LEVELS = ("run", "session", "subject", "dataset")

# Instructions of pybids-transforms-v1 that pybids computes rightly.
#
# Of the others Group cannot be called (its argument is Name), Replace loses capitals (Tea is
# tea), ToDense and Resample ring at the edges of blocks.
TRANSFORMATIONS = (
    *("And", "Assign", "Convolve", "Copy", "Delete", "Demean", "Factor", "Filter", "Lag", "Not"),
    *("Or", "Orthogonalize", "Product", "Rename", "Scale", "Select", "Split", "Sum", "Threshold"),
)

_HRF = [
    f"{shape}{derivatives}"
    for shape in ("spm", "glover")
    for derivatives in ("", " + derivative", " + derivative + dispersion")
]


@dataclass(frozen=True, kw_only=True)
class StatsModel:
    """A model's file, `content` with the haemodynamic responses as instructions to convolve."""

    path: Path
    content: dict[str, Any]

    def node(self, name: str) -> dict[str, Any]:
        """Give a node as the file has it."""
        return dict(next(node for node in self.content["Nodes"] if node["Name"] == name))

    def high_pass(self, name: str) -> float | None:
        """Cutoff of a run node's filter, in Hz."""
        cutoff = (self.node(name)["Model"].get("Options") or {}).get("HighPassFilterCutoffHz")
        return None if cutoff is None else float(cutoff)


def read_stats_model(path: Path) -> StatsModel:
    """Read a model's file; what its words do not allow, or nothing here computes, is refused."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: not readable as JSON ({error}); expected a BIDS Stats Model, e.g. "
            "BIDS_DIR/code/models/all_smdl.json"
        ) from None
    _check_words(path, content)
    faults = [*_graph_faults(content)]
    for node in content["Nodes"]:
        faults += [f"node {node['Name']}: {fault}" for fault in _node_faults(node)]
    if faults:
        raise UsageError(f"{path}: " + "; ".join(faults))
    return StatsModel(path=path, content=_with_convolutions(content))


def _check_words(path: Path, content: Any) -> None:
    """Compare the file with the specification's own classes; words that they lack are refused."""
    try:
        from bsmschema.models import BIDSStatsModel
        from pydantic import ValidationError
    except ImportError:
        raise UsageError(
            "a BIDS Stats Model is checked by bsmschema, which is not installed; "
            "`pip install 'llm2bids[models]'`"
        ) from None
    try:
        known = BIDSStatsModel.model_validate(content).model_dump(exclude_unset=True)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise UsageError(
            f"{path}: no BIDS Stats Model: {'; '.join(faults)}; see "
            "https://bids-standard.github.io/stats-models/"
        ) from None
    unknown = list(_unknown(content, known))  # bsmschema passes over them
    if unknown:
        raise UsageError(
            f"{path}: the specification has no {', '.join(unknown)}; correct the spelling or "
            "leave it out"
        )


def _unknown(content: Any, known: Any, path: str = "") -> Iterator[str]:
    """Name the keys of a file that the specification's classes did not take."""
    if isinstance(content, dict) and isinstance(known, dict):
        for key, value in content.items():
            if key not in known:
                yield f"{path}{key}"
            else:
                yield from _unknown(value, known[key], f"{path}{key}.")
    elif isinstance(content, list) and isinstance(known, list):
        for index, (value, taken) in enumerate(zip(content, known, strict=True)):
            yield from _unknown(value, taken, f"{path}{index}.")


def _graph_faults(content: Mapping[str, Any]) -> Iterator[str]:
    """Say where the nodes are no tree that begins with the runs."""
    nodes = content["Nodes"]
    names = [node["Name"] for node in nodes]
    if not nodes:
        yield "no node"
        return
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        yield f"several nodes have the name {', '.join(repeated)}"
    if nodes[0]["Level"] != "Run":
        yield f"the first node, {names[0]}, is of level {nodes[0]['Level']}; expected Run"
    edges = content.get("Edges") or [
        {"Source": source, "Destination": destination} for source, destination in pairwise(names)
    ]
    level = {node["Name"]: LEVELS.index(node["Level"].lower()) for node in nodes}
    sources: Counter[str] = Counter()
    for edge in edges:
        ends = (edge["Source"], edge["Destination"])
        missing = [name for name in ends if name not in level]
        if missing:
            yield f"an edge names {', '.join(missing)}; the nodes are {', '.join(names)}"
            continue
        if level[ends[1]] <= level[ends[0]]:
            yield f"the edge from {ends[0]} to {ends[1]} does not lead to a higher level"
        sources[ends[1]] += 1
    for name in names[1:]:
        if sources[name] != 1:
            yield f"node {name}: {sources[name]} edges lead to it; expected one"


def _node_faults(node: Mapping[str, Any]) -> Iterator[str]:
    """Name what a node asks and nothing here computes."""
    model = node["Model"]
    if model.get("Formula") is not None:
        yield "Model.Formula is not computed; write its columns into X"
    options = model.get("Options") or {}
    if options.get("Aggregate") == "none":
        options = {key: value for key, value in options.items() if key != "Aggregate"}
    known = ("HighPassFilterCutoffHz",) if node["Level"] == "Run" else ()
    for name, value in options.items():
        if value is not None and name not in (*known, "Description"):
            yield f"Model.Options.{name} is not computed at level {node['Level']}"
    cutoff = options.get("HighPassFilterCutoffHz")
    if cutoff is not None and not (isinstance(cutoff, int | float) and 0 < cutoff < math.inf):
        yield f"Model.Options.HighPassFilterCutoffHz is {cutoff!r}; expected a number above 0"
    if all(name == 1 for name in model["X"]) and node["Level"] == "Run":
        yield f"Model.X is {model['X']}; expected variables such as trial_type.*"
    if node["Level"] == "Run" and model["Type"] != "glm":
        yield f"Model.Type {model['Type']} of a run; expected glm"
    yield from _hrf_faults(node)
    yield from _transformation_faults(node)
    yield from _contrast_faults(node)


def _hrf_faults(node: Mapping[str, Any]) -> Iterator[str]:
    model = node["Model"]
    hrf = model.get("HRF")
    if hrf is not None:
        if node["Level"] != "Run":
            yield "Model.HRF above the level of runs"
        if hrf["Model"] not in _HRF or hrf.get("Parameters"):
            yield f"Model.HRF {hrf['Model']!r} is not computed; expected one of {', '.join(_HRF)}"
        absent = [name for name in hrf["Variables"] if name not in model["X"]]
        if absent:
            yield f"Model.HRF names {', '.join(absent)}, which X has not"


def _transformation_faults(node: Mapping[str, Any]) -> Iterator[str]:
    for instruction in (node.get("Transformations") or {}).get("Instructions", []):
        name = instruction.get("Name") if isinstance(instruction, dict) else instruction
        if name not in TRANSFORMATIONS:
            yield (
                f"the transformation {name} is not computed; expected some of "
                f"{', '.join(TRANSFORMATIONS)}"
            )
        elif name == "Convolve" and instruction.get("Model", "spm") not in ("spm", "glover"):
            # pybids counts the delays of fir in tenths of a second
            yield f"Convolve with Model {instruction['Model']!r}; expected spm or glover"


def _contrast_faults(node: Mapping[str, Any]) -> Iterator[str]:
    contrasts, dummies = node.get("Contrasts") or [], node.get("DummyContrasts")
    if not contrasts and dummies is None:
        yield "no contrast; give Contrasts or DummyContrasts"
    if dummies is not None and dummies["Test"] == "F":
        yield "DummyContrasts of test F; name F contrasts in Contrasts"
    for contrast in contrasts:
        try:
            weights = contrast_weights(contrast["Weights"])
        except (ValueError, ArithmeticError) as error:
            yield f"contrast {contrast['Name']}: a weight is no number ({error})"
            continue
        rows = weights if contrast["Test"] == "F" else weights[:1]
        lengths = {len(row) for row in weights}
        if len(rows) != len(weights) or lengths != {len(contrast["ConditionList"])}:
            yield (
                f"contrast {contrast['Name']}: {len(weights)} row(s) of "
                f"{', '.join(map(str, sorted(lengths)))} weights for "
                f"{len(contrast['ConditionList'])} conditions and test {contrast['Test']}; "
                "expected a weight for each, in one row but for F"
            )
        elif not all(any(row) for row in weights):
            yield f"contrast {contrast['Name']}: its weights are all 0"


def contrast_weights(weights: list[Any]) -> list[list[float]]:
    """Give weights as rows of numbers.

    >>> contrast_weights([1, "-1/2"])
    [[1.0, -0.5]]
    """
    rows = weights if weights and isinstance(weights[0], list) else [weights]
    return [[float(Fraction(weight)) for weight in row] for row in rows]


def _with_convolutions(content: Mapping[str, Any]) -> dict[str, Any]:
    """Write Model.HRF as the last instruction: pybids passes over it."""
    nodes = []
    for node in content["Nodes"]:
        hrf = node["Model"].get("HRF")
        if hrf is not None:
            words = hrf["Model"].split(" + ")
            convolve = {
                "Name": "Convolve",
                "Input": hrf["Variables"],
                "Model": words[0],
                "Derivative": "derivative" in words,
                "Dispersion": "dispersion" in words,
            }
            added = [f"{name}_{word}" for name in hrf["Variables"] for word in words[1:]]
            asked = node.get("Transformations") or {"Transformer": "pybids-transforms-v1"}
            steps = {**asked, "Instructions": [*asked.get("Instructions", []), convolve]}
            model = {**node["Model"], "X": [*node["Model"]["X"], *added]}
            node = {**node, "Transformations": steps, "Model": model}
        nodes.append(node)
    return {**content, "Nodes": nodes}
