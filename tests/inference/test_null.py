"""Null datasets with known truth through every pipeline: rates, groups, units, files."""

import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import InferenceError, UsageError
from llm2bids.inference.inputs import open_inputs
from llm2bids.inference.null import draw_groups, draw_units, measure_null, null_replicates
from llm2bids.inference.null_pipelines import (
    PIPELINES,
    count_group,
    count_run,
    cropped,
    pipeline_models,
)
from llm2bids.inference.null_results import as_json, sentence, text_table, write_measurement
from llm2bids.model.units import Site
from llm2bids.paradigm.design import Trial
from llm2bids.paradigm.task import Prompt, Task
from llm2bids.space.arrange import build_space
from tests.synthetic import DRINKS, Experiment

WIDTHS = {"model.layers.0.attn": 130, "model.layers.0.mlp": 190, "model.layers.1.mlp": 190}
PANEL = "model.layers.0.mlp"


@dataclass(frozen=True, kw_only=True)
class NullExperiment(Experiment):
    """Runs of off prompts with a sham block; noise that the tokens of a prompt may share."""

    prompt_sd: float = 0.0
    phi: float = 0.0
    longer: float = 0.0  # by how many tokens prompts of the sham block are, which all units follow

    @property
    def paradigm(self):
        off = ((self.baseline, self.baseline),)
        tasks = tuple(Task(label=task, conditions=off) for task in self.tasks)
        return replace(super().paradigm, tasks=tasks)

    @cached_property
    def banks(self):
        n = 3 * self.per_block * len(self.tasks) * self.n_participants
        prompts = [
            Prompt(prompt_id=f"off{i:04d}", condition=self.baseline, topic="", text=f"{i}")
            for i in range(n)
        ]
        return {self.baseline: prompts}

    def make_design(self, participant=1, task=None, run=None, **changes):
        number = (participant - 1) * len(self.tasks) + self.tasks.index(task)
        first = number * 3 * self.per_block
        trials = tuple(
            Trial(
                prompt=self.banks[self.baseline][first + index],
                trial_type=task if index // self.per_block == 1 else None,
                block=index // self.per_block,
            )
            for index in range(3 * self.per_block)
        )
        tea = DRINKS.make_design()
        return replace(
            tea,
            participant_label=f"{participant:02d}",
            task=task,
            trials=trials,
            tokens_per_prompt=self.tokens_per_prompt,
            seed=100 + number,
        )

    def make_recording(self, design, *, seed=0):
        recording = super().make_recording(design, seed=seed)
        rng = np.random.default_rng([9, design.seed])
        z = rng.standard_normal((len(design.trials), self.tokens_per_prompt, self.n_units))
        for token in range(1, self.tokens_per_prompt):
            z[:, token] = self.phi * z[:, token - 1] + np.sqrt(1 - self.phi**2) * z[:, token]
        z += self.prompt_sd * rng.standard_normal((len(z), 1, self.n_units))
        on = np.array([trial.trial_type is not None for trial in design.trials])
        length = rng.normal(8, 2, on.size) + self.longer * on
        z += self.effect * on[:, None, None]
        if self.longer:
            z += 0.5 * (length - length.mean())[:, None, None]
        tokens = recording.tokens.assign(prompt_tokens=length[recording.tokens["trial"]])
        gain = self.make_calibration()
        values = z.reshape(-1, self.n_units) * gain.scale + gain.mean
        return replace(recording, values=values.astype(np.float32), tokens=tokens)


@pytest.fixture(scope="module")
def simulate(tmp_path_factory):
    """Write a null dataset and open it."""

    def inputs(n_participants, **truth):
        sites = tuple(
            Site(name=name, layer=int(name.split(".")[2]), role=name.split(".")[3], width=width)
            for name, width in WIDTHS.items()
        )
        experiment = NullExperiment(
            name="sim", space_label="Sim", sites=sites, baseline="off", per_block=8,
            tokens_per_prompt=6, n_participants=n_participants, constant_unit=7,
            planted=dict.fromkeys(("null1", "null2", "null3"), 0), **{"effect": 0.0, **truth},
        )  # fmt: skip
        return open_inputs(experiment.write_dataset(tmp_path_factory.mktemp("null") / "bids"))

    return inputs


@pytest.fixture(scope="module")
def dependent(simulate):
    """Tokens of one prompt share noise and follow one another."""
    inputs = simulate(8, prompt_sd=0.5, phi=0.4)
    return measure_null(inputs, n_units=400, n_groups=20, n_perm=199, progress=False)


@pytest.fixture(scope="module")
def small(simulate):
    """The fewest runs, in seconds."""
    return simulate(4, prompt_sd=0.5)


def rate(measured, pipeline, kind="unit", nominal=0.05):
    (found,) = [r for r in measured.of(pipeline) if (r.kind, r.nominal) == (kind, nominal)]
    return found


@pytest.mark.slow
def test_independent_noise_keeps_every_rate(simulate):
    measured = measure_null(simulate(8), n_units=400, n_groups=20, n_perm=199, progress=False)
    for pipeline in ("token_ols", "prompt_ols", "prompt_permutation", "second_level"):
        for level in (0.05, 0.01):
            assert rate(measured, pipeline, nominal=level).verdict == "inside"


@pytest.mark.slow
def test_dependent_tokens_inflate_token_pipelines_alone(dependent):
    assert rate(dependent, "token_ols").measured > 0.15
    assert dependent.verdict("token_ols") == dependent.verdict("token_ar1") == "inflated"
    assert rate(dependent, "token_ols", "bonferroni").verdict == "inflated"
    ordered = [rate(dependent, key).measured for key in ("token_ols", "token_ar1", "prompt_ols")]
    assert ordered == sorted(ordered, reverse=True)
    for pipeline in ("prompt_ols", "prompt_permutation", "second_level", "pooled_permutation"):
        assert rate(dependent, pipeline).verdict == "inside"
    families = (("sign_flips", "max_t"), ("clusters", "cluster_size"), ("clusters", "cluster_mass"))
    for pipeline, kind in families:
        assert rate(dependent, pipeline, kind).n == 20
        assert rate(dependent, pipeline, kind).verdict != "inflated"
    levels = [r.nominal for r in dependent.of("prompt_permutation") if r.kind == "unit"]
    assert levels == [0.05, 0.01]  # 199 permutations do not reach 0.001


@pytest.mark.slow
def test_an_effect_is_found_so_that_a_low_rate_is_no_blindness(simulate):
    inputs = simulate(4, prompt_sd=0.3, effect=2.0)
    tested, panel = draw_units(inputs.space, 400, seed=0)
    chosen = inputs.within(tested | panel)
    parts = tested[chosen.units], panel[chosen.units]
    runs = [
        count_run(chosen, run, parts[0], pipeline_models(()), n_perm=199, random_state=0)
        for run in chosen.runs[:8]
    ]
    at_5_percent = [c for counts in runs[0].counts.values() for c in counts if c.nominal == 0.05]
    assert all(count.hits == count.n_tests for count in at_5_percent)
    np.testing.assert_allclose(runs[0].effect[runs[0].varies].mean(), 2.0, atol=0.1)
    crop = cropped(chosen, parts[1])
    found = count_group(runs, *parts, crop, n_perm=199, random_state=0)
    assert set(found) == {p.key for p in PIPELINES if p.level == "group"}
    assert all(c.hits for counts in found.values() for c in counts if c.kind != "unit")


def test_a_unit_that_does_not_vary_counts_for_nothing(small):
    everything, panel = draw_units(small.space, 10**6, seed=0)
    tested = everything[small.units]
    runs = [
        count_run(small, run, tested, pipeline_models(()), n_perm=19, random_state=0)
        for run in small.runs[:2]
    ]
    # a unit that is constant in the recording carries the dither in the images, which is noise
    of_units = [c for counts in runs[0].counts.values() for c in counts if c.kind == "unit"]
    assert {count.n_tests for count in of_units} == {small.space.n_units}
    runs[1] = replace(runs[1], varies=np.arange(small.space.n_units) != 7)
    found = count_group(runs, tested, panel, cropped(small, panel), n_perm=19, random_state=0)
    assert found["second_level"][0].n_tests == small.space.n_units - 1
    assert found["pooled_permutation"][0].n_tests == small.space.n_units - 1


def test_a_giveaway_inflates_the_default_and_its_covariate_mends_it(simulate):
    inputs = simulate(4, prompt_sd=0.7, longer=3.0)
    options = {"n_units": 400, "n_groups": 0, "n_perm": 19, "progress": False}
    without = measure_null(inputs, **options)
    covariate = measure_null(inputs, confounds=["length", "position"], **options)
    assert rate(without, "prompt_ols").measured > 0.3
    assert abs(rate(covariate, "prompt_ols").measured - 0.05) < 0.02
    assert covariate.metadata["confounds"] == ["length", "position"]


@pytest.mark.slow
def test_rates_do_not_depend_on_the_number_of_processes(small):
    options = {"n_units": 50, "n_groups": 3, "group_size": 4, "n_perm": 19, "progress": False}
    one, two = (measure_null(small, n_cpus=n, **options) for n in (1, 2))
    assert one.rates == two.rates
    pd.testing.assert_frame_equal(one.shares, two.shares)


def test_groups_hold_distinct_replicates():
    replicates = ["a", "a", "b", "c", "c", "c"]
    groups = draw_groups(replicates, n_groups=50, group_size=3, seed=1)
    assert all({replicates[i] for i in group} == {"a", "b", "c"} for group in groups)
    assert {i for group in groups for i in group} == set(range(6))
    assert groups == draw_groups(replicates, n_groups=50, group_size=3, seed=1)
    with pytest.raises(UsageError, match="there are 3 participants"):
        draw_groups(replicates, n_groups=1, group_size=4, seed=0)
    assert draw_groups(replicates, n_groups=0, group_size=4, seed=0) == []


def test_runs_that_share_no_prompt_are_replicates(small, simulate):
    assert len(set(null_replicates(small))) == 12
    with pytest.raises(InferenceError, match="found 3 null runs, expected at least 10"):
        null_replicates(simulate(1))


def test_units_are_a_random_subset_and_a_whole_panel():
    widths = (651, 90, 90, 90, 40)
    sites = [
        Site(name=f"model.layers.{layer}.mlp", layer=layer, role="mlp", width=width)
        for layer, width in enumerate(widths)
    ]
    space = build_space(sites, label="Sim", model_name="sim", weights_sha256="ab" * 32)
    tested, panel = draw_units(space, 70, seed=3)
    assert tested.sum() == 70
    assert (
        np.flatnonzero(panel).tolist()
        == list(range(space.n_units))[space.site_slices["model.layers.2.mlp"]]
    )
    assert draw_units(space, 10**6, seed=3)[0].all()
    with pytest.raises(UsageError, match="--units"):
        draw_units(space, 0, seed=0)


def test_a_panel_keeps_its_neighbours(small):
    _, panel = draw_units(small.space, 1, seed=0)
    order, mask_img = cropped(small, panel)
    values = np.arange(panel.sum(), dtype=np.float32)
    grid = np.zeros(mask_img.shape, dtype=np.float32)
    grid[np.asarray(mask_img.dataobj) > 0] = values[order]
    whole = small.space.to_grid(np.where(panel, np.cumsum(panel) - 1, 0).astype(np.float32))
    box = tuple(
        slice(low - 1, high + 2)
        for low, high in zip(
            small.space.voxels[panel].min(axis=0), small.space.voxels[panel].max(axis=0),
            strict=True,
        )
    )  # fmt: skip
    np.testing.assert_array_equal(grid, whole[box])


def test_json_table_and_figure_say_the_same(small, tmp_path):
    measured = measure_null(small, n_units=40, n_groups=1, group_size=3, n_perm=19, progress=False)
    assert [p.key for p in measured.pipelines] == [p.key for p in PIPELINES]
    for pipeline in measured.pipelines:
        assert {r.n for r in measured.of(pipeline.key)} == {12 if pipeline.level == "run" else 1}
    paths = write_measurement(tmp_path / "new", measured)
    assert [path.name for path in paths] == [
        "calibration.json", "calibration.tsv", "calibration_shares.tsv", "calibration.png",
    ]  # fmt: skip
    found = json.loads(paths[0].read_text())
    assert found == json.loads(json.dumps(as_json(measured)))
    table = pd.read_csv(paths[1], sep="\t")
    assert len(table) == len(found["rates"]) == len(measured.rates)
    np.testing.assert_allclose(table["measured"], [r.measured for r in measured.rates], atol=1e-6)
    shares = pd.read_csv(paths[2], sep="\t").groupby(["pipeline", "nominal"])["share"].mean()
    tokens = rate(measured, "token_ols")
    assert shares["token_ols", 0.05] == pytest.approx(tokens.measured)
    assert paths[3].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_sentences_name_verdict_factor_and_numbers(dependent):
    (tokens,) = [p for p in PIPELINES if p.key == "token_ols"]
    text = sentence(dependent, tokens)
    assert text.startswith("tokens, OLS: inflated, by a factor of ")
    assert "of 24 null runs" in text
    lines = text_table(dependent).splitlines()
    assert len(lines) == len(PIPELINES) + 2
    assert [line for line in lines if line.startswith("prompts, t test *")]


@pytest.mark.parametrize("wrong", [{"n_cpus": 0}, {"n_perm": 5}])
def test_numbers_out_of_range_are_refused(small, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        measure_null(small, n_groups=0, progress=False, **{"n_perm": 19, **wrong})
