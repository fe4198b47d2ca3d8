"""Pipelines on simulations with known truth."""

import json

import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import UsageError
from llm2bids.inference.null.files import as_json, sentence, text_table, write_measurement
from llm2bids.inference.null.groups import draw_groups, tally_group
from llm2bids.inference.null.measure import measure_null
from llm2bids.inference.null.pipelines import PIPELINES, tally_run
from llm2bids.inference.null.units import LARGEST_PANEL, draw_units
from llm2bids.model.units import Site
from llm2bids.space.arrange import build_space

OPTIONS = {"n_perm": 199, "progress": False}


@pytest.fixture(scope="module")
def independent(simulate):
    """Independent tokens: every pipeline is right."""
    return measure_null(simulate(n_runs=24, prompt_sd=0.0), n_groups=20, **OPTIONS)


@pytest.fixture(scope="module")
def dependent(simulate):
    """Tokens of one prompt share noise and follow one another."""
    source = simulate(n_runs=24, prompt_sd=0.5, phi=0.4, seed=1)
    return measure_null(source, n_groups=20, tfce_groups=1, **OPTIONS)


def rate(measured, pipeline, kind="unit", nominal=0.05):
    (one,) = [r for r in measured.of(pipeline) if (r.kind, r.nominal) == (kind, nominal)]
    return one


@pytest.mark.slow
@pytest.mark.parametrize(
    "pipeline", ["token_ols", "prompt_ols", "prompt_permutation", "second_level"]
)
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_independent_noise_keeps_every_rate(independent, pipeline, level):
    assert rate(independent, pipeline, nominal=level).verdict == "inside"


@pytest.mark.slow
def test_dependent_tokens_inflate_token_pipelines_alone(dependent):
    assert rate(dependent, "token_ols").measured > 0.15
    assert dependent.verdict("token_ols") == dependent.verdict("token_ar1") == "inflated"
    assert rate(dependent, "token_ols", "bonferroni").verdict == "inflated"
    ordered = [rate(dependent, key).measured for key in ("token_ols", "token_ar1", "prompt_ols")]
    assert ordered == sorted(ordered, reverse=True)
    for pipeline in ("prompt_ols", "prompt_permutation", "second_level", "pooled_permutation"):
        assert rate(dependent, pipeline).verdict == "inside"


@pytest.mark.slow
def test_family_wise_rates_of_the_group_level_hold(dependent):
    for pipeline, kind in (
        ("sign_flips", "max_t"),
        ("pooled_permutation", "max_t"),
        ("clusters", "cluster_size"),
        ("clusters", "cluster_mass"),
    ):
        one = rate(dependent, pipeline, kind)
        assert one.n == 20
        assert one.verdict != "inflated"
    assert rate(dependent, "tfce", "tfce").n == 1


@pytest.mark.slow
def test_levels_that_the_permutations_cannot_reach_are_left_out(dependent):
    levels = [r.nominal for r in dependent.of("prompt_permutation") if r.kind == "unit"]
    assert levels == [0.05, 0.01]


@pytest.mark.slow
def test_an_effect_is_found_so_that_a_low_rate_is_no_blindness(simulate):
    source = simulate(n_runs=8, prompt_sd=0.3, shift=2.0)
    tests = [
        tally_run(run, source.draw, n_perm=199, random_state=0) for run in source.runs()
    ]  # fmt: skip
    for tally in tests[0].tallies.values():
        assert tally.exceed[0.05] == tally.n_tests == 400
        assert all(tally.detections.values())
    np.testing.assert_allclose(tests[0].effect.mean(), 2.0, atol=0.1)
    found = tally_group(tests, source.draw, n_perm=199, tfce=True, random_state=0)
    assert set(found) == {p.key for p in PIPELINES if p.level == "group"}
    assert all(all(tally.detections.values()) for tally in found.values())


def test_a_unit_that_does_not_vary_counts_for_nothing(simulate):
    source = simulate(n_runs=3, prompt_sd=0.3)
    tests = []
    for run in source.runs():
        run.values[:, source.draw.tested[:7]] = 0
        tests.append(tally_run(run, source.draw, n_perm=19, random_state=0))
    assert {tally.n_tests for tally in tests[0].tallies.values()} == {393}
    found = tally_group(tests, source.draw, n_perm=19, tfce=False, random_state=0)
    assert found["second_level"].n_tests == found["pooled_permutation"].n_tests == 393


@pytest.mark.slow
def test_rates_do_not_depend_on_the_number_of_processes(simulate):
    source = simulate(n_runs=5, prompt_sd=0.3, n_units=50)
    one, two = (measure_null(source, n_groups=3, group_size=4, n_cpus=n, **OPTIONS) for n in (1, 2))
    assert one.rates == two.rates
    pd.testing.assert_frame_equal(one.shares, two.shares)


@pytest.fixture(scope="module")
def small(simulate):
    """A measurement that takes a second."""
    source = simulate(n_runs=3, prompt_sd=0.5, n_units=40)
    return measure_null(source, n_groups=1, group_size=3, n_perm=19, progress=False)


def test_every_pipeline_but_the_slowest_is_measured(small):
    assert [p.key for p in small.pipelines] == [p.key for p in PIPELINES if p.key != "tfce"]
    for pipeline in small.pipelines:
        assert {r.n for r in small.of(pipeline.key)} == {3 if pipeline.level == "run" else 1}


def test_groups_hold_distinct_participants():
    participants = ["a", "a", "b", "c", "c", "c"]
    groups = draw_groups(participants, n_groups=50, group_size=3, seed=1)
    assert all({participants[i] for i in group} == {"a", "b", "c"} for group in groups)
    assert {i for group in groups for i in group} == set(range(6))
    assert groups == draw_groups(participants, n_groups=50, group_size=3, seed=1)
    with pytest.raises(UsageError, match="there are 3 participants"):
        draw_groups(participants, n_groups=1, group_size=4, seed=0)
    assert draw_groups(participants, n_groups=0, group_size=4, seed=0) == []


def test_units_are_a_random_subset_and_a_whole_panel():
    widths = (LARGEST_PANEL + 11, 90, 90, 90, 40)
    sites = [
        Site(name=f"model.layers.{layer}.mlp", layer=layer, role="mlp", width=width)
        for layer, width in enumerate(widths)
    ]
    space = build_space(sites, label="Sim", model_name="sim", weights_sha256="ab" * 32)
    draw = draw_units(space, 70, seed=3)
    assert draw.panel_site == "model.layers.2.mlp"
    assert draw.kept[draw.panel].tolist() == list(range(space.n_units))[space.site_slices[
        draw.panel_site]]  # fmt: skip
    assert draw.tested.size == np.unique(draw.kept[draw.tested]).size == 70
    steps = draw.panel_voxels - space.voxels[draw.kept[draw.panel]]
    assert (steps == steps[0]).all()
    assert draw_units(space, 10**6, seed=3).tested.size == space.n_units
    with pytest.raises(UsageError, match="--units"):
        draw_units(space, 0, seed=0)


def test_json_table_and_figure_say_the_same(small, tmp_path):
    paths = write_measurement(tmp_path / "new", small)
    assert [path.name for path in paths] == [
        "calibration.json", "calibration.tsv", "calibration_shares.tsv", "calibration.png",
    ]  # fmt: skip
    found = json.loads(paths[0].read_text())
    assert found == json.loads(json.dumps(as_json(small)))
    table = pd.read_csv(paths[1], sep="\t")
    assert len(table) == len(found["rates"]) == len(small.rates)
    np.testing.assert_allclose(table["measured"], [r.measured for r in small.rates], atol=1e-6)
    shares = pd.read_csv(paths[2], sep="\t").groupby(["pipeline", "nominal"])["share"].mean()
    one = rate(small, "token_ols")
    assert shares["token_ols", 0.05] == pytest.approx(one.measured)
    assert paths[3].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_sentences_name_verdict_factor_and_numbers(dependent):
    (tokens,) = [p for p in PIPELINES if p.key == "token_ols"]
    said = sentence(dependent, tokens)
    assert said.startswith("tokens, OLS: inflated, by a factor of ")
    assert "of 24 null runs" in said
    lines = text_table(dependent).splitlines()
    assert len(lines) == len(PIPELINES) + 2
    assert [line for line in lines if line.startswith("prompts, t test *")]


@pytest.mark.parametrize("wrong", [{"n_cpus": 0}, {"n_perm": 5}, {"tfce_groups": -1}])
def test_numbers_out_of_range_are_refused(simulate, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        measure_null(simulate(n_runs=2, prompt_sd=0), n_groups=0, progress=False,
                     **{"n_perm": 19, **wrong})  # fmt: skip
