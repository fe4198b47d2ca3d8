"""BIDS Stats Models: designs by hand, maps against nilearn, and what is refused."""

import json
from copy import deepcopy

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.contrasts import compute_fixed_effects
from nilearn.glm.first_level import FirstLevelModel
from nilearn.glm.second_level import SecondLevelModel

from llm2bids.exceptions import InferenceError, Llm2bidsError, UsageError
from llm2bids.inference.analyze_model import analyze_model, open_layout
from llm2bids.inference.stats_model import read_stats_model
from llm2bids.inference.stats_model_plan import Plan
from tests.people import EVENTS, FACTOR, MODEL, N_VOLUMES, T_R, boxcar, make_people


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return make_people(tmp_path_factory.mktemp("people"))


@pytest.fixture
def model_file(tmp_path):
    """Write a model, changed as a test wants it."""

    def write(change=lambda model: None):
        model = deepcopy(MODEL)
        change(model)
        path = tmp_path / "drinks_smdl.json"
        path.write_text(json.dumps(model))
        return path

    return write


@pytest.fixture(scope="module")
def result(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "drinks_smdl.json").write_text(json.dumps(MODEL))
    model, out = folder / "drinks_smdl.json", folder / "out"
    # blocks of 3 of the 60 voxels
    return analyze_model(people, out, model=model, mem_gb=3 * 8 * 8 * N_VOLUMES / 1e9,
                         progress=False)  # fmt: skip


@pytest.fixture(scope="module")
def design_of(people):
    """The design of one run by a model's file."""
    with open_layout(people, [people / "derivatives" / "fmriprep"]) as layout:

        def plan(path):
            chosen = {"space": ["Tiny"], "subject": ["01"], "run": [1]}
            model = read_stats_model(path)
            plan = Plan(layout=layout, model=model, files=None, level="run", drop_missing=False)
            return plan.make(chosen)[0].design

        yield plan


def confounds_of(people, label="01", run=1):
    name = f"sub-{label}/func/sub-{label}_task-drinks_run-{run}_desc-confounds_timeseries.tsv"
    return pd.read_csv(people / "derivatives" / "fmriprep" / name, sep="\t")


def prepared(people, label, run, suffix):
    name = f"sub-{label}_task-drinks_run-{run}_space-Tiny_desc-{suffix}.nii.gz"
    return people / "derivatives" / "fmriprep" / f"sub-{label}" / "func" / name


def read(result, node, contrast, stat, *, sub=None, run=None):
    folder, names = result.out_dir / f"node-{node}", ["space-Tiny", f"contrast-{contrast}"]
    if run is not None:
        names = ["task-drinks", f"run-{run}", *names]
    if sub is not None:
        folder, names = folder / f"sub-{sub}", [f"sub-{sub}", *names]
    return nib.load(folder / f"{'_'.join(names)}_stat-{stat}_statmap.nii.gz").get_fdata()


def test_design_of_a_run(people, design_of, model_file):
    design = design_of(model_file())
    assert list(design) == ["trial_type.cup", "trial_type.tea", "framewise_displacement",
                            "intercept"]  # fmt: skip
    np.testing.assert_array_equal(design["trial_type.tea"], boxcar("tea"))
    np.testing.assert_array_equal(design["trial_type.cup"], boxcar("cup"))
    expected = confounds_of(people)["framewise_displacement"]
    expected[0] = expected[1:].mean()  # FitLins: the first value is the mean of the others
    np.testing.assert_allclose(design["framewise_displacement"], expected)
    assert (design["intercept"] == 1).all()


def rating_of(values):
    """A column of the events at the volumes' times."""
    series = np.zeros(N_VOLUMES)
    for onset, duration, value in zip(EVENTS["onset"], EVENTS["duration"], values, strict=True):
        series[int(onset / T_R) : int((onset + duration) / T_R)] = value
    return series


RATING = EVENTS["rating"].to_numpy()
TEA, CUP = boxcar("tea"), boxcar("cup")
STEPS = {
    "Copy": ([FACTOR, {"Name": "Copy", "Input": ["trial_type.tea"], "Output": ["t"]}], "t", TEA),
    "Rename": ([FACTOR, {"Name": "Rename", "Input": ["trial_type.tea"], "Output": ["t"]}], "t",
               TEA),
    "Delete": ([FACTOR, {"Name": "Delete", "Input": ["rating"]}], "trial_type.tea", TEA),
    "Select": ([FACTOR, {"Name": "Select", "Input": ["trial_type.tea"]}], "trial_type.tea", TEA),
    "Scale": ([{"Name": "Scale", "Input": ["rating"]}], "rating",
              rating_of((RATING - RATING.mean()) / RATING.std(ddof=1))),
    "Demean": ([{"Name": "Demean", "Input": ["rating"]}], "rating",
               rating_of(RATING - RATING.mean())),
    "Threshold": ([{"Name": "Threshold", "Input": ["rating"], "Threshold": 3, "Binarize": True}],
                  "rating", rating_of(RATING >= 3)),
    "Assign": ([FACTOR, {"Name": "Assign", "Input": ["rating"], "Target": ["trial_type.tea"],
                         "Output": ["r"]}], "r", rating_of(RATING)),
    "Product": ([FACTOR, {"Name": "Product", "Input": ["trial_type.tea", "rating"],
                          "Output": ["p"]}], "p", TEA * rating_of(RATING)),
    "Sum": ([FACTOR, {"Name": "Sum", "Input": ["trial_type.tea", "trial_type.cup"],
                      "Weights": [1, 2], "Output": ["s"]}], "s", TEA + 2 * CUP),
    "Or": ([FACTOR, {"Name": "Or", "Input": ["trial_type.tea", "trial_type.cup"],
                     "Output": ["o"]}], "o", TEA + CUP),
    "And": ([FACTOR, {"Name": "And", "Input": ["trial_type.tea", "rating"], "Output": ["a"]}], "a",
            TEA),
    "Not": ([FACTOR, {"Name": "Not", "Input": ["trial_type.tea"], "Output": ["n"]}], "n", CUP),
    "Filter": ([{"Name": "Filter", "Input": ["rating"], "Query": "rating > 2"}], "rating",
               rating_of(np.where(RATING > 2, RATING, 0))),
    "Split": ([{"Name": "Split", "Input": ["rating"], "By": ["trial_type"]},
               {"Name": "Delete", "Input": ["rating", "*cup*"]}], "rating.*",
              TEA * rating_of(RATING)),
}  # fmt: skip
"""Instructions, the column that they make, and its values."""


def asking(steps, column):
    def change(model):
        run = model["Nodes"][0]
        run["Transformations"]["Instructions"] = steps
        run["Model"]["X"] = [1, column]
        del run["Contrasts"]
        run["DummyContrasts"] = {"Test": "t"}
        model["Nodes"] = [run]

    return change


@pytest.mark.parametrize("name", STEPS)
def test_transformations_of_events(design_of, model_file, name):
    steps, column, expected = STEPS[name]
    design = design_of(model_file(asking(steps, column)))
    np.testing.assert_allclose(design.iloc[:, 0], expected, atol=1e-12)


def test_transformations_of_confounds(people, design_of, model_file):
    trans = confounds_of(people)["trans_x"].to_numpy()
    lagged = {"Name": "Lag", "Input": ["trans_x"], "Shift": 2, "Output": ["lag"]}
    design = design_of(model_file(asking([lagged], "lag")))
    np.testing.assert_allclose(design["lag"][2:], trans[:-2], atol=1e-9)
    apart = {"Name": "Orthogonalize", "Input": ["trans_x"], "Other": ["lag"]}
    design = design_of(model_file(asking([lagged, apart], "trans_x")))
    lag = np.array([trans[0], trans[0], *trans[:-2]])
    assert abs(np.corrcoef(design["trans_x"], lag)[0, 1]) < 1e-9
    assert np.corrcoef(design["trans_x"], trans)[0, 1] > 0.3


@pytest.mark.parametrize("hrf", ["spm", "glover + derivative"])
def test_hrf_is_nilearns(design_of, model_file, hrf):
    from nilearn.glm.first_level import compute_regressor

    def change(model):
        asking([FACTOR], "trial_type.tea")(model)
        model["Nodes"][0]["Model"]["HRF"] = {"Variables": ["trial_type.tea"], "Model": hrf}

    design = design_of(model_file(change)).iloc[:, :-1]
    rows = EVENTS[EVENTS["trial_type"] == "tea"]
    condition = np.vstack([rows["onset"], rows["duration"], np.ones(len(rows))])
    expected, _ = compute_regressor(condition, hrf, np.arange(N_VOLUMES) * T_R)
    assert design.shape == expected.shape
    for ours, theirs in zip(design.to_numpy().T, expected.T, strict=True):
        # pybids convolves at 10 Hz and filters before it takes every 20th value
        assert np.corrcoef(ours, theirs)[0, 1] > 0.95


def test_high_pass_is_nilearns(design_of, model_file):
    def change(model):
        asking([FACTOR], "trial_type.tea")(model)
        model["Nodes"][0]["Model"]["Options"] = {"HighPassFilterCutoffHz": 0.02}

    design = design_of(model_file(change))
    # floor(2 * 40 * 2 s * 0.02 Hz) cosines
    assert list(design.columns[1:]) == ["drift_1", "drift_2", "drift_3", "intercept"]


@pytest.mark.filterwarnings("ignore:.*Generation of a mask:RuntimeWarning")
def test_a_run_equals_nilearn(people, result, design_of, model_file):
    design = design_of(model_file())
    theirs = FirstLevelModel(mask_img=prepared(people, "01", 1, "brain_mask"), minimize_memory=True)
    theirs.fit(prepared(people, "01", 1, "preproc_bold"), design_matrices=design)
    weights = {"teaVsCup": np.array([-0.5, 0.5, 0, 0]), "trialTypeTea": np.array([0, 1, 0, 0])}
    inside = nib.load(prepared(people, "01", 1, "brain_mask")).get_fdata() > 0
    for label, vector in weights.items():
        maps = theirs.compute_contrast(vector, output_type="all")
        for stat, name in {"effect": "effect_size", "variance": "effect_variance", "t": "stat",
                           "z": "z_score", "p": "p_value"}.items():  # fmt: skip
            mine = read(result, "run", label, stat, sub="01", run=1)
            expected = maps[name].get_fdata()
            np.testing.assert_allclose(mine[inside], expected[inside], rtol=2e-4, atol=1e-5)
    square = theirs.compute_contrast(np.eye(2, 4), stat_type="F", output_type="all")
    for stat, name in {"F": "stat", "z": "z_score", "p": "p_value"}.items():
        mine = read(result, "run", "any", stat, sub="01", run=1)
        expected = square[name].get_fdata()
        np.testing.assert_allclose(mine[inside], expected[inside], rtol=2e-4, atol=1e-5)
    assert not list(result.out_dir.glob("node-subject/**/*contrast-any*"))  # F is terminal


def test_meta_equals_nilearns_fixed_effects(result):
    label = "trialTypeTea"
    both = [
        [
            nib.Nifti1Image(read(result, "run", label, stat, sub="02", run=run), np.eye(4))
            for run in (1, 2)
        ]
        for stat in ("effect", "variance")
    ]
    mask = nib.Nifti1Image((both[1][0].get_fdata() > 0).astype(np.uint8), np.eye(4))
    expected = compute_fixed_effects(*both, mask=mask, precision_weighted=False)
    for stat, image in zip(("effect", "variance", "t"), expected, strict=False):
        mine = read(result, "subject", label, stat, sub="02")
        np.testing.assert_allclose(mine, image.get_fdata(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*Generation of a mask:RuntimeWarning")
def test_dataset_equals_nilearns_second_level(people, result):
    maps = [
        nib.Nifti1Image(read(result, "subject", "trialTypeTea", "effect", sub=label), np.eye(4))
        for label in ("01", "02", "03", "04")
    ]
    ages = pd.read_csv(people / "participants.tsv", sep="\t")["age"]
    design = pd.DataFrame({"intercept": 1.0, "age": ages})
    mask = nib.Nifti1Image((maps[0].get_fdata() != 0).astype(np.uint8), np.eye(4))
    theirs = SecondLevelModel(mask_img=mask).fit(maps, design_matrix=design)
    for label, weights in {"trialTypeTea": [1, 0], "trialTypeTeaAge": [0, 1]}.items():
        expected = theirs.compute_contrast(weights, output_type="all")
        for stat, name in {"effect": "effect_size", "t": "stat", "z": "z_score"}.items():
            mine = read(result, "dataset", label, stat)
            np.testing.assert_allclose(mine, expected[name].get_fdata(), rtol=1e-4, atol=1e-4)
    tea = read(result, "dataset", "trialTypeTea", "effect")
    assert np.unravel_index(np.abs(tea).argmax(), tea.shape) == (1, 1, 1)


def test_sidecars_and_description(result):
    path = next(result.out_dir.glob("node-run/sub-01/*run-1*contrast-teaVsCup_stat-t_statmap.json"))
    about = json.loads(path.read_text())
    assert about["Sources"] == [
        "bids:fmriprep:sub-01/func/sub-01_task-drinks_run-1_space-Tiny_desc-preproc_bold.nii.gz"
    ]
    assert (about["Level"], about["Model"], about["DegreesOfFreedom"]) == ("run", "drinks", 36)
    assert about["Weights"] == [-0.5, 0.5, 0, 0]
    written = json.loads((result.out_dir / "dataset_description.json").read_text())
    assert written["DatasetType"] == "derivative"
    assert "/node-*" in (result.out_dir / ".bidsignore").read_text().split()


def test_levels_and_filters(people, model_file, tmp_path):
    options = {"model": model_file(), "progress": False, "participant_label": ["sub-01", "02"]}
    filters = tmp_path / "filter.json"
    filters.write_text('{"bold": {"run": [2]}}')
    made = analyze_model(people, tmp_path / "out", level="run", bids_filter_file=filters, **options)
    assert {path.parts[0] for path in made.files} == {"node-run"}
    assert {path.name.split("_")[0] + path.name.split("_")[2] for path in made.files} == {
        "sub-01run-2", "sub-02run-2"
    }  # fmt: skip


def put(path, value):
    """Change one entry of the model."""

    def change(model):
        *parents, last = path
        for key in parents:
            model = model[key]
        model[last] = value

    return change


RUN = ("Nodes", 0)
BAD = {
    "no model": (put(("Nodes", 0, "Level"), "Voxel"), "Nodes.0.Level: Input should be 'Run'"),
    "a word": (put((*RUN, "DummyContrast"), {}), "has no Nodes.0.DummyContrast"),
    "transformation": (
        put((*RUN, "Transformations", "Instructions"), [{"Name": "Concatenate", "Input": ["a"]}]),
        "the transformation Concatenate is not computed; expected some of And, Assign",
    ),
    "fir": (
        put((*RUN, "Transformations", "Instructions"),
            [FACTOR, {"Name": "Convolve", "Input": ["trial_type.tea"], "Model": "fir"}]),
        "Convolve with Model 'fir'; expected spm or glover",
    ),
    "hrf": (
        put((*RUN, "Model", "HRF"), {"Variables": ["framewise_displacement"], "Model": "afni"}),
        "Model.HRF 'afni' is not computed",
    ),
    "formula": (put((*RUN, "Model", "Formula"), "1 + age"), "Model.Formula is not computed"),
    "low-pass": (
        put((*RUN, "Model", "Options"), {"LowPassFilterCutoffHz": 0.1}),
        "LowPassFilterCutoffHz is not computed",
    ),
    "weights": (
        put((*RUN, "Contrasts", 0, "Weights"), [1]), "1 row(s) of 1 weights for 2 conditions"
    ),
    "no weights": (put((*RUN, "Contrasts", 0, "Weights"), [0, 0]), "its weights are all 0"),
    "infinite": (put((*RUN, "Contrasts", 0, "Weights"), [1e400, 1]), "a weight is no number"),
    "no variables": (put((*RUN, "Model", "X"), [1]), "Model.X is [1]; expected variables"),
    "cutoff": (
        put((*RUN, "Model", "Options"), {"HighPassFilterCutoffHz": 0}),
        "HighPassFilterCutoffHz is 0; expected a number above 0",
    ),
    "word weight": (put((*RUN, "Contrasts", 0, "Weights"), [1, "x"]), "a weight is no number"),
    "condition": (
        put((*RUN, "Contrasts", 0, "ConditionList"), ["trial_type.tea", "trial_type.mug"]),
        "contrast tea_vs_cup has a condition that no design has; the columns are",
    ),
    "variable": (put((*RUN, "Model", "X"), [1, "trial_type.*", "speed"]), "speed"),
    "words in X": (
        put(("Nodes", 2, "Model", "X"), [1, "group"]), "group is no number in 4 of 4 rows"
    ),
    "runs together": (put((*RUN, "GroupBy"), ["subject"]), "2 series in one model"),
    "an edge": (
        put(("Edges",), [{"Source": "run", "Destination": "group"}]),
        "an edge names group; the nodes are run, subject, dataset",
    ),
    "task": (put(("Input", "task"), ["tea"]), "no desc-preproc series of task tea"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_models_are_refused_before_anything_is_fitted(people, model_file, tmp_path, name):
    change, message = BAD[name]
    with pytest.raises(Llm2bidsError) as caught:
        analyze_model(people, tmp_path / "out", model=model_file(change), progress=False)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_glm_without_rest_is_refused(people, model_file, tmp_path):
    change = put(("Nodes", 1, "Model"), {"Type": "glm", "X": [1]})
    with pytest.raises(InferenceError, match=r"1 map\(s\) for 1 column\(s\) leave nothing"):
        analyze_model(
            people, tmp_path / "out", model=model_file(change), progress=False,
            bids_filter_file=_filter(tmp_path),
        )  # fmt: skip


def _filter(folder):
    path = folder / "filter.json"
    path.write_text('{"bold": {"run": [1]}}')
    return path


def test_results_of_two_models_are_not_mixed(people, result, model_file):
    path = model_file(put(("Name",), "other"))
    with pytest.raises(UsageError, match=r"holds results of another model \(model_smdl.json\)"):
        analyze_model(people, result.out_dir, model=path, progress=False)


def test_a_participant_without_a_row_is_named(people, model_file, tmp_path):
    import shutil

    copy = tmp_path / "people"
    shutil.copytree(people, copy)
    table = pd.read_csv(copy / "participants.tsv", sep="\t")
    table[:-1].to_csv(copy / "participants.tsv", sep="\t", index=False)
    with pytest.raises(InferenceError, match=r"4 maps, the tables have rows for 3; sub-04_"):
        analyze_model(copy, tmp_path / "out", model=model_file(), progress=False)
