"""A small scan of a tiny model with random weights, to make edits from."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llm2bids.dataset.read import Dataset
from llm2bids.scan.record import record

if TYPE_CHECKING:
    pass

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
def scanned(
    tiny_model_dir: Callable[[str], Path],
    paradigm_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Dataset:
    """Two participants of the tiny Llama, all sites; not to be changed."""
    return record(
        tmp_path_factory.mktemp("scanned") / "dataset",
        model=tiny_model_dir("llama"),
        paradigm=paradigm_file,
        n_participants=2,
        seed=5,
        device="cpu",
        progress=False,
    )


@pytest.fixture(scope="session")
def analysed(scanned: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The participants' effect maps of that scan; results are written beside them."""
    from llm2bids.inference.analyze import analyze_participants

    out_dir = tmp_path_factory.mktemp("analysed") / "analysis"
    analyze_participants(scanned.path, out_dir)
    return out_dir
