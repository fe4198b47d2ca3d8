"""FitLins 0.11.0, in an environment of its own, on the BIDS Stats Models that a dataset carries."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from llm2bids.dataset.locate import locate
from llm2bids.inference.analyze import analyze_group, analyze_participants
from llm2bids.inference.analyze_model import analyze_model
from tests import people

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PARTICIPANTS = ["01", "02", "03"]
SITES = {"pathology": "model.layers.1.mlp.up_proj", "archeology": "model.layers.2.mlp.gate_proj"}
"""Where the units were planted that answer to a task."""
N_PLANTED = 12
DIFFERENCE = "archeologyVsPathology"
"""The model has each condition against the next, in the order of the paradigm."""
NO_ENVIRONMENT = 3


@pytest.fixture(scope="module")
def environment():
    """The folder of FitLins' environment; it is made where it is missing."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "fitlins" / "environment.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == NO_ENVIRONMENT:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def run_fitlins(environment, tmp_path_factory):
    """Run a model of a dataset as it is; give the exit status, the log and the output folder."""

    def run(
        dataset,
        name,
        *,
        space="Tiny",
        participants=PARTICIPANTS,
        model=None,
        derivative=None,
        more=(),
    ):
        out = tmp_path_factory.mktemp(name)
        config = out / "nipype"
        config.mkdir()
        # nipype looks every 2 s whether a step has ended; steps here take less than that
        (config / "nipype.cfg").write_text("[execution]\npoll_sleep_duration = 0.05\n")
        command = [
            environment / "bin" / "fitlins",
            getattr(dataset, "path", dataset),
            out / "fitlins",
            "dataset",
            *("--model", model or dataset.path / f"code/models/{name}_smdl.json"),
            *("--derivatives", derivative or dataset.derivative),
            *more,
            *("--space", space),
            *("--estimator", "nilearn"),
            *("--participant-label", *participants),
            *("--work-dir", out / "work"),
            *("--n-cpus", os.cpu_count()),
        ]
        done = subprocess.run(
            [str(word) for word in command],
            env={
                **os.environ,
                "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
                "NIPYPE_CONFIG_DIR": str(config),
                "NO_ET": "1",  # nipype would ask its server for the newest version
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, out / "fitlins"

    return run


@pytest.fixture(scope="module")
def one_task(planted, run_fitlins):
    status, log, out = run_fitlins(planted, "task-pathology")
    assert status == 0, log[-3000:]
    return out


@pytest.fixture(scope="module")
def all_tasks(planted, run_fitlins):
    """Two participants: FitLins draws a picture for each of their maps, and takes its time."""
    status, log, out = run_fitlins(planted, "all", participants=PARTICIPANTS[:2])
    assert status == 0, log[-3000:]
    return out


@pytest.fixture(scope="module")
def analyzed(planted, tmp_path_factory):
    """The same model by llm2bids: an observation for each token, AR(1), no confounds."""

    def analyze(participants):
        out = tmp_path_factory.mktemp("analyzed")
        options = {"participant_label": participants, "progress": False}
        analyze_participants(planted.path, out, unit_of_analysis="token", **options)
        contrasts = {DIFFERENCE: "archeology - pathology"}
        analyze_group(planted.path, out, contrasts=contrasts, **options)
        return out

    return cache(analyze)


def check_agreement(dataset, ours, theirs, contrast, statistic):
    """Their map is ours, with the same peak; give both, shape ``(n_units,)``."""
    (our_map,) = ours.glob(f"group/*contrast-{contrast}_*stat-{statistic}_statmap.nii.gz")
    their_map = theirs / f"node-dataset/contrast-{contrast}_stat-{statistic}_statmap.nii.gz"
    maps = [dataset.space.to_units(nib.load(path)).astype(float) for path in (their_map, our_map)]
    assert np.corrcoef(maps)[0, 1] >= 0.99
    assert len({np.abs(values).argmax() for values in maps}) == 1
    return maps


def check_equal(result, theirs, node, statistics, *, least=0.9999):
    """Every map of a node that FitLins wrote is ours; give how many there are."""
    n_maps = 0
    for path in (theirs / f"node-{node}").rglob("*_statmap.nii.gz"):
        stat = path.name.split("_stat-")[1].split("_")[0]
        if stat not in statistics:
            continue
        name = path.name.replace("contrast-", "*contrast-")
        if "contrast-any_" in name and stat in ("effect", "variance"):
            continue  # whitened effects of an F contrast, one for each of its rows
        (mine,) = (result.out_dir / path.parent.relative_to(theirs)).glob(name)
        ours, other = (np.squeeze(nib.load(file).get_fdata()) for file in (mine, path))
        inside = other != 0  # FitLins' p is 0 outside the mask, ours 1
        assert inside.sum() > 50
        assert np.corrcoef(ours[inside], other[inside])[0, 1] >= least, path.name
        scale = np.abs(other[inside]).max()
        assert np.abs(ours[inside] - other[inside]).max() <= 0.02 * scale, path.name
        n_maps += 1
    return n_maps


ALL = ("effect", "variance", "t", "z", "p", "F")


def test_our_runner_writes_the_maps_of_fitlins(planted, one_task, tmp_path):
    model = planted.path / "code/models/task-pathology_smdl.json"
    result = analyze_model(
        planted.path, tmp_path / "out", model=model, participant_label=PARTICIPANTS, progress=False
    )
    assert check_equal(result, one_task, "run", ALL) == 5 * len(PARTICIPANTS)
    assert check_equal(result, one_task, "dataset", ALL) == 5


def test_our_runner_on_all_tasks(planted, all_tasks, tmp_path):
    model = planted.path / "code/models/all_smdl.json"
    labels = PARTICIPANTS[:2]
    result = analyze_model(
        planted.path, tmp_path / "out", model=model, participant_label=labels, progress=False
    )
    assert check_equal(result, all_tasks, "run", ALL) == 5 * 2 * len(labels)
    # FitLins' variance of a meta node is NaN, and so are t, z and p
    assert check_equal(result, all_tasks, "subject", ("effect",)) == 3 * len(labels)
    assert check_equal(result, all_tasks, "dataset", ("effect", "t")) == 2 * 3


def test_our_runner_on_a_dataset_as_of_people(run_fitlins, tmp_path):
    """Events are convolved, confounds and an age are covariates, F contrasts stand beside t."""
    root = people.make_people(tmp_path / "people")
    derivative = root / "derivatives" / "fmriprep"
    content = deepcopy(people.MODEL)
    convolve = {"Name": "Convolve", "Input": ["trial_type.tea", "trial_type.cup"], "Model": "spm"}
    content["Nodes"][0]["Transformations"]["Instructions"].append(convolve)
    content["Nodes"][0]["Contrasts"][0]["Weights"] = [0.5, -0.5]  # FitLins takes no "1/2"
    # FitLins would hand the F contrast on
    chosen = {"contrast": ["tea_vs_cup", "trial_type.tea"]}
    content["Edges"] = [
        {"Source": "run", "Destination": "subject", "Filter": chosen},
        {"Source": "subject", "Destination": "dataset"},
    ]
    model = tmp_path / "drinks_smdl.json"
    model.write_text(json.dumps(content))
    status, log, theirs = run_fitlins(
        root, "people", model=model, derivative=derivative, participants=people.LABELS
    )
    assert status == 0, log[-3000:]
    result = analyze_model(root, tmp_path / "out", model=model, progress=False)
    n_runs = 2 * len(people.LABELS)
    assert check_equal(result, theirs, "run", ALL) == (5 * 2 + 3) * n_runs
    assert check_equal(result, theirs, "subject", ("effect",)) == 2 * len(people.LABELS)
    assert check_equal(result, theirs, "dataset", ("effect", "variance", "t", "z")) == 4 * 4


def strongest(values, n_units):
    return set(np.argsort(-np.abs(values))[:n_units])


@pytest.mark.parametrize("statistic", ["effect", "t"])
def test_one_task_agrees_with_analyze(planted, one_task, analyzed, statistic):
    ours = analyzed(tuple(PARTICIPANTS))
    theirs, mine = check_agreement(planted, ours, one_task, "pathology", statistic)
    if statistic == "effect":
        assert strongest(theirs, N_PLANTED) == strongest(mine, N_PLANTED)


def test_locate_names_the_planted_units(planted, one_task):
    effect = one_task / "node-dataset/contrast-pathology_stat-effect_statmap.nii.gz"
    table = locate(effect, planted.space, top_percent=2)
    assert len(table) >= N_PLANTED
    expected = {f"{SITES['pathology']}[{unit}]" for unit in range(N_PLANTED)}
    assert set(table["address"][:N_PLANTED]) == expected


def test_report_and_pictures(one_task):
    text = (one_task / "reports/model-pathology.html").read_text()
    assert text.count("<img") >= len(PARTICIPANTS)
    for folder in ("node-run", "node-dataset"):
        assert list((one_task / folder / "reports").rglob("*_ortho.png"))


@pytest.mark.parametrize("task", SITES)
def test_all_tasks_agree_with_analyze(planted, all_tasks, analyzed, task):
    ours = analyzed(tuple(PARTICIPANTS[:2]))
    theirs, mine = check_agreement(planted, ours, all_tasks, task, "effect")
    assert strongest(theirs, N_PLANTED) == strongest(mine, N_PLANTED)


def test_difference_of_tasks_within_participants(planted, all_tasks, analyzed):
    ours = analyzed(tuple(PARTICIPANTS[:2]))
    subjects = sorted(path.name for path in all_tasks.glob("node-subject/sub-*"))
    assert subjects == [f"sub-{label}" for label in PARTICIPANTS[:2]]
    theirs, mine = check_agreement(planted, ours, all_tasks, DIFFERENCE, "effect")
    # the weakest planted units of two participants lie within the noise
    units = strongest(theirs, 2 * N_PLANTED) & strongest(mine, 2 * N_PLANTED)
    assert len(units) >= 2 * N_PLANTED - 2
    modules = {planted.space.address_of(unit).split("[")[0] for unit in units}
    assert modules >= set(SITES.values())


def test_a_space_that_does_not_exist_is_its_last_line(planted, run_fitlins):
    status, log, out = run_fitlins(planted, "task-pathology", space="Nowhere")
    assert status == 1
    assert log.strip().endswith("ValueError: No functional images that match criteria found.")
    assert not list(out.rglob("*.nii.gz"))


def test_an_edit_against_the_intact_model_within_participants(
    run_fitlins, tiny_model_dir, tmp_path_factory
):
    """The paired difference of sessions is the mean of the participants' differences."""
    import llm2bids

    root = tmp_path_factory.mktemp("sessions")
    paradigm = root / "short.toml"
    paradigm.write_text(
        'order = "off_on_off"\nbaseline = "offtopic"\nprompts_per_block = 3\n'
        'tokens_per_prompt = 4\ncalibration_prompts = 5\n[tasks]\npathology = "pathology"\n'
    )
    options = {
        "model": tiny_model_dir("llama"), "paradigm": paradigm, "n_participants": 3,
        "device": "cpu", "progress": False, "sites": ["mlp"],
    }  # fmt: skip
    plain = llm2bids.record(root / "plain", **options)
    values = np.random.default_rng(0).normal(size=plain.space.n_units)
    edit = llm2bids.make_edit(plain, stat_img=values, top_percent=20, method="zero", label="cut")
    dataset = llm2bids.record(root / "edited", edit=edit.save(root / "cut.json"), **options)
    status, log, out = run_fitlins(dataset, "sessions", space="tinyllama")
    assert status == 0, log[-3000:]

    model = dataset.path / "code/models/sessions_smdl.json"
    result = analyze_model(dataset.path, root / "ours", model=model, progress=False)
    assert check_equal(result, out, "run", ALL) == 5 * 2 * len(PARTICIPANTS)
    assert check_equal(result, out, "dataset", ("effect", "t"), least=0.999) == 2

    def units_of(place):
        return dataset.space.to_units(nib.load(out / place)).astype(float)

    differences = []
    for label in PARTICIPANTS:
        first, second = (
            units_of(
                f"node-run/sub-{label}/ses-{session}/sub-{label}_ses-{session}_task-pathology_"
                "contrast-pathology_stat-effect_statmap.nii.gz"
            )
            for session in ("cut", "intact")
        )
        differences.append(first - second)
    theirs = units_of("node-dataset/contrast-pathologyEdited_stat-effect_statmap.nii.gz")
    expected = np.mean(differences, axis=0)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(theirs, expected, atol=1e-3 * np.abs(expected).max())
