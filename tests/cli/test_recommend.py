"""The recommended design in words."""

import argparse
import json

import pytest

from llm2bids.cli.plan import add_recommendation, describe_designs, most_prompts
from llm2bids.exceptions import DatasetError, ParadigmError
from llm2bids.inference.power import design_power, recommend_designs, shipped_components, unit_alpha
from llm2bids.recording.draw import draw_scan


def options(*argv):
    parser = argparse.ArgumentParser()
    add_recommendation(parser)
    return parser.parse_args([*map(str, argv)])


def test_the_design_that_is_printed_reaches_the_power():
    said = describe_designs(options("--effect-size", 0.3), n_units=9000, max_prompts=None)
    components = shipped_components()
    alpha = unit_alpha(0.05, "fdr", n_units=9000)
    best = recommend_designs(components, 0.3, alpha=alpha)[0]
    first = said.splitlines()[1].split()
    assert [first[0], first[3], first[8]] == [
        str(number) for number in (best.n_participants, best.n_prompts, best.n_tokens)
    ]
    design = {"n_participants": best.n_participants, "n_prompts": best.n_prompts}
    assert design_power(components, 0.3, **design, n_tokens=best.n_tokens, alpha=alpha) >= 0.8
    assert components.source in said


def test_what_no_design_reaches_is_said():
    said = describe_designs(
        options("--effect-size", 0.001, "--correction", "bonferroni"), n_units=9000, max_prompts=99
    )
    assert said.startswith("no design of 8 to 64 participants reaches d 0.001 at power 0.8")
    assert "within the 99 prompts that banks serve" in said


@pytest.mark.parametrize("paradigm", ["off_on_off", "interleaved", "multi_task"])
def test_what_is_recommended_can_be_recorded(paradigm):
    """The off bank serves the off blocks of every task: it may be the one that is used up first."""
    most = most_prompts(draw_scan(paradigm, n_participants=1))
    for n_prompts in (1, 4):
        draw_scan(paradigm, n_participants=most // n_prompts, prompts_per_block=n_prompts)
    with pytest.raises(ParadigmError, match=f"found {most + 1}"):
        draw_scan(paradigm, n_participants=most + 1, prompts_per_block=1)


def test_other_components(tmp_path):
    path = tmp_path / "mine.json"
    mine = {"participant": 0, "prompt": 2, "token": 1, "autocorrelation": 0, "source": "my model"}
    path.write_text(json.dumps(mine))
    argv = ["--effect-size", 0.5, "--variance-components", path]
    assert "my model" in describe_designs(options(*argv), n_units=100, max_prompts=None)
    path.write_text("[1]")
    with pytest.raises(DatasetError, match=r"mine\.json: found a JSON list"):
        describe_designs(options(*argv), n_units=100, max_prompts=None)
    path.write_text("{")
    with pytest.raises(DatasetError, match=r"mine\.json: not readable .*power_figure"):
        describe_designs(options(*argv), n_units=100, max_prompts=None)
