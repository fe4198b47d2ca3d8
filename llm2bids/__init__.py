"""Scan a language model like a brain.

The public verbs are imported when they are first used, so that ``import llm2bids`` is fast and
loads neither torch nor transformers.

Examples
--------
>>> import llm2bids
>>> dataset = llm2bids.record("my-dataset", n_participants=2)  # doctest: +SKIP
>>> dataset = llm2bids.open_dataset("my-dataset")  # doctest: +SKIP
>>> values = dataset.space.to_units("zmap.nii.gz")  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from llm2bids.comparison.features import features as features
    from llm2bids.comparison.localizer import Localizer as Localizer
    from llm2bids.comparison.localizer import localize as localize
    from llm2bids.comparison.rsa import Comparison as Comparison
    from llm2bids.comparison.rsa import compare as compare
    from llm2bids.dataset.locate import locate as locate
    from llm2bids.dataset.read import Dataset as Dataset
    from llm2bids.dataset.read import open_dataset as open_dataset
    from llm2bids.dataset.validate import Validation as Validation
    from llm2bids.dataset.validate import validate as validate
    from llm2bids.exceptions import Llm2bidsError as Llm2bidsError
    from llm2bids.inference.analyze import GroupResult as GroupResult
    from llm2bids.inference.analyze import ParticipantsResult as ParticipantsResult
    from llm2bids.inference.analyze import analyze_group as analyze_group
    from llm2bids.inference.analyze import analyze_participants as analyze_participants
    from llm2bids.inference.analyze_model import ModelResult as ModelResult
    from llm2bids.inference.analyze_model import analyze_model as analyze_model
    from llm2bids.inference.confounds import load_confounds as load_confounds
    from llm2bids.intervention.edit import edited as edited
    from llm2bids.intervention.edit import make_edit as make_edit
    from llm2bids.intervention.export import export_control_vector as export_control_vector
    from llm2bids.intervention.export import export_ia3 as export_ia3
    from llm2bids.intervention.export import export_lora as export_lora
    from llm2bids.intervention.export import export_masks as export_masks
    from llm2bids.intervention.export import shira_mask_fn as shira_mask_fn
    from llm2bids.intervention.lesion import lesion as lesion
    from llm2bids.intervention.monitor import monitor as monitor
    from llm2bids.intervention.results import InterventionResult as InterventionResult
    from llm2bids.intervention.steer import steer as steer
    from llm2bids.intervention.targets import targets as targets
    from llm2bids.model.edit import Edit as Edit
    from llm2bids.model.edit import load_edit as load_edit
    from llm2bids.network.dataset_findings import dataset_findings as dataset_findings
    from llm2bids.network.findings import Findings as Findings
    from llm2bids.network.network import Network as Network
    from llm2bids.network.network import load_network as load_network
    from llm2bids.report.draw.color import register_colormaps as register_colormaps
    from llm2bids.report.flatmap import plot_flatmap as plot_flatmap
    from llm2bids.report.page import write_report as write_report
    from llm2bids.report.view import view as view
    from llm2bids.scan.read import read as read
    from llm2bids.scan.record import record as record
    from llm2bids.scan.record import replay as replay
    from llm2bids.scan.shards import merge as merge
    from llm2bids.space.space import Space as Space

_NAMES = {
    "comparison.features": "features",
    "comparison.localizer": "Localizer localize",
    "comparison.rsa": "Comparison compare",
    "dataset.locate": "locate",
    "dataset.read": "Dataset open_dataset",
    "dataset.validate": "Validation validate",
    "exceptions": "Llm2bidsError",
    "inference.analyze": "GroupResult ParticipantsResult analyze_group analyze_participants",
    "inference.confounds": "load_confounds",
    "inference.analyze_model": "ModelResult analyze_model",
    "intervention.edit": "edited make_edit",
    "intervention.export": "export_control_vector export_ia3 export_lora export_masks "
    "shira_mask_fn",
    "intervention.lesion": "lesion",
    "intervention.monitor": "monitor",
    "intervention.results": "InterventionResult",
    "intervention.steer": "steer",
    "intervention.targets": "targets",
    "model.edit": "Edit load_edit",
    "network.dataset_findings": "dataset_findings",
    "network.findings": "Findings",
    "network.network": "Network load_network",
    "report.draw.color": "register_colormaps",
    "report.flatmap": "plot_flatmap",
    "report.page": "write_report",
    "report.view": "view",
    "scan.shards": "merge",
    "scan.read": "read",
    "scan.record": "record replay",
    "space.space": "Space",
}
_WHERE = {name: f"llm2bids.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'llm2bids' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
