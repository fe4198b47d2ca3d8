"""Smoothness: values that vary slowly over the grid are found smooth in their own order only."""

import json

import numpy as np
import pytest

from llm2bids import record
from llm2bids.dataset.arrangement import read_stability
from llm2bids.dataset.read import open_dataset
from llm2bids.report.smoothness import (
    moran_table,
    smoothness_body,
    space_orders,
    stability_part,
)
from llm2bids.report.sources import find_sources


@pytest.fixture(scope="module")
def space(scanned):
    return open_dataset(scanned / "dataset").space


def test_slow_waves_are_smooth_in_their_own_order_only(space):
    orders = space_orders(space)
    assert list(orders) == ["index", "random"]
    x, y, _ = space.voxels.T.astype(float)
    table = moran_table(np.stack([x + y, np.cos(x / 4)]), orders)
    assert table.loc["all panels", "index"] > 0.5
    assert abs(table.loc["all panels", "random"]) < 0.3
    assert set(table.index) >= {site.role for site in space.sites if site.layer is not None}


def test_the_page_tells_what_halves_of_the_localizer_agree_on(
    scanned, tiny_model_dir, tmp_path, monkeypatch
):
    assert stability_part(open_dataset(scanned / "dataset")) == ""
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    options = {"task_labels": ("pathology",), "prompts_per_block": 2, "tokens_per_prompt": 2,
               "n_participants": 1, "progress": False, "device": "cpu"}  # fmt: skip
    made = record(
        tmp_path / "one", model=tiny_model_dir("llama"), arrangement="functional",
        localizer_prompts=4, **options,
    )  # fmt: skip
    whole = read_stability(made.path, made.space).correlation["all panels"]
    body = str(stability_part(made))
    assert "components" in body and "28 prompts" in body
    for order in ("functional", "index", "random"):
        assert f">{order} order<" in body.replace("<span>", "").replace("</span>", "")
        assert f">{round(whole[order], 2) + 0.0:.2f}</td>" in body
    (file,) = made.derivative.glob("tpl-*/*_arrangement.json")
    about = json.loads(file.read_text())
    del about["SplitHalf"]
    file.write_text(json.dumps(about))
    body = str(stability_part(made))
    assert "was not measured" in body and "<table" not in body


def test_the_section_shows_both_orders(scanned):
    sources = find_sources(scanned)
    body = str(smoothness_body(sources))
    assert "index order" in body and "random order" in body
    assert "They do not: Moran's I" in body
    assert "--arrangement functional" in body
    assert "<details>" in body  # a screen of zeros is closed
    assert "nan" not in body
