"""The sections of steering, targets and monitor."""

import re

import pandas as pd
import pytest

from llm2bids.inference.analyze import analyze_participants
from llm2bids.intervention.results import InterventionResult
from llm2bids.report.interventions import intervention_sections
from llm2bids.report.sources import find_sources

HOSTILE = "</td><script>alert(1)</script>"


@pytest.fixture
def out_dir(drinks, tmp_path):
    folder = tmp_path / "analysis"
    analyze_participants(drinks, folder, progress=False)
    return folder


def bodies(out_dir, drinks):
    sections = intervention_sections(find_sources(out_dir, bids_dir=drinks))
    return {section.name: str(section.body) for section in sections}


def steering():
    methods = ("none", "direction", "random")
    table = pd.DataFrame(
        [
            {
                "task": "tea", "method": method, "layer": 3, "strength": 4.0, "n": 12, "hit": hit,
                "hit_low": 0.0, "hit_high": 1.0, "p": hit, "nll": 2.34, "nll_low": 2.0,
                "nll_high": 2.6, "distinct_2": 0.87, "identified": "coffee", "r_own": 0.41,
                "r_other": 0.3,
            }
            for method, hit in zip(methods, (0.08, 0.75, 0.04), strict=True)
        ]
    )  # fmt: skip
    search = pd.DataFrame(
        {"task": "tea", "layer": [2, 3], "strength": 4.0, "hit": [0.5, 0.7], "nll": [2.0, 2.2]}
    )
    texts = pd.DataFrame(
        [
            {"task": "tea", "method": method, "prompt_id": f"off-{n}", "prompt": f"Ask {n}",
             "text": f"{HOSTILE} {method} {n}", "classified": "tea", "nll": 1.5}
            for method in methods for n in range(6)
        ]
    )  # fmt: skip
    return InterventionResult(
        name="steer", stem="toward",
        tables={"steer": table, "search": search, "texts": texts},
        metadata={"Direction": "means", "Minus": False, "ClassifierAccuracy": 0.55,
                  "ClassifierTests": 84, "Chance": 1 / 7},
        notes=("No loop is a hit.",),
    )  # fmt: skip


def test_what_is_missing_names_its_command(out_dir, drinks):
    steering().save(out_dir)
    shown = bodies(out_dir, drinks)
    assert list(shown) == ["steer", "interventions"]
    for name in ("lesion", "targets", "monitor"):
        task = " --task LABEL" if name == "targets" else ""
        assert f"<code>llm2bids {name} {drinks.name} analysis{task}<" in shown["interventions"]
    assert "llm2bids steer" not in shown["interventions"]


def test_steered_text_stands_side_by_side_and_cannot_run(out_dir, drinks):
    steering().save(out_dir)
    body = bodies(out_dir, drinks)["steer"]
    assert "0.75" in body and "2.34" in body and "55" in body and body.count("<svg") == 1
    # points of the search, and one control
    n_drawn = len(re.findall(r"<use [^>]*opacity: 0.35", body))
    assert n_drawn == 3 and "of the same norm" in body
    assert "<script>alert" not in body and "direction 3" in body and "direction 4" not in body
    assert "No loop is a hit." in body


def test_targets_and_monitor_show_their_tables(out_dir, drinks):
    choices = pd.DataFrame({"choice": ["network", "fisher"], "own_gain": [0.125, 1.75]})
    modules = pd.DataFrame({"module": ["m.down"], "fisher": [0.5]})
    InterventionResult(
        name="targets", stem="tea", tables={"choices": choices, "modules": modules},
        metadata={"Task": "tea", "Budget": 7, "TopPercent": 1.0,
                  "ModuleShareRankCorrelation": float("nan")}, notes=("Local.",),
    ).save(out_dir)  # fmt: skip
    areas = pd.DataFrame(
        {"topic": ["tea", "milk"], "score": "network", "position": "last prompt token",
         "auroc_off": [0.99, 0.97], "auroc_others": [0.9, 0.8]}
    )  # fmt: skip
    detection = pd.DataFrame({"topic": ["tea"], "tokens": [2], "detected": [0.625]})
    InterventionResult(
        name="monitor", stem="monitor", tables={"monitor": areas, "detection": detection},
        metadata={"NumberOfPrompts": 16}, notes=("No safety gate.",),
    ).save(out_dir)  # fmt: skip
    shown = bodies(out_dir, drinks)
    assert "1.75" in shown["targets"] and "m.down" in shown["targets"]
    assert "0.98" in shown["monitor"] and "0.625" in shown["monitor"]
    assert "No safety gate." in shown["monitor"]
