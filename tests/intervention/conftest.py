"""A small scan of a tiny model with random weights, to make edits from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm2bids.dataset.read import Dataset
from llm2bids.inference.analyze import analyze_participants
from llm2bids.inference.effects import read_effects
from llm2bids.inference.inputs import open_inputs
from llm2bids.scan.record import record

PARADIGM = """
order = "off_on_off"
baseline = "offtopic"
prompts_per_block = 3
tokens_per_prompt = 2
calibration_prompts = 5
[tasks]
pathology = "pathology"
politicalscience = "politicalscience"
archeology = "archeology"
"""


@pytest.fixture(scope="session")
def paradigm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks, three prompts a block."""
    file = tmp_path_factory.mktemp("paradigm") / "short.toml"
    file.write_text(PARADIGM)
    return file


@pytest.fixture(scope="session")
def model(tiny_model_dir: Callable[[str], Path]) -> str:
    """The folder of the model that was scanned."""
    return str(tiny_model_dir("llama"))


@pytest.fixture(scope="session")
def scanned(model: str, paradigm_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two participants of the tiny Llama, all sites; not to be changed."""
    return record(
        tmp_path_factory.mktemp("scanned") / "dataset",
        model=model,
        paradigm=paradigm_file,
        n_participants=2,
        seed=5,
        device="cpu",
        progress=False,
    )


@pytest.fixture(scope="session")
def analysed(scanned: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The participants' effect maps of that scan; results are written beside them."""
    out_dir = tmp_path_factory.mktemp("analysed") / "analysis"
    analyze_participants(scanned.path, out_dir)
    return out_dir


@pytest.fixture(scope="session")
def activations(scanned: Dataset, analysed: Path) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """Give the units of the MLPs' activations, and a topic's mean effect on each."""
    effects = read_effects(open_inputs(scanned.path), analysed)
    slices = [scanned.space.site_slices[f"model.layers.{n}.mlp.act_fn"] for n in range(3)]
    units = np.concatenate([np.r_[part] for part in slices])

    def of_topic(label: str) -> tuple[np.ndarray, np.ndarray]:
        column = [condition.label for condition in effects.conditions].index(label)
        return units, effects.values[:, column].mean(axis=0)[units]

    return of_topic
