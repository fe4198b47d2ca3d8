"""The scripts of docs/examples, run as a reader runs them, on a dataset with known responses."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.dataset.read import open_dataset

pytestmark = [pytest.mark.slow, pytest.mark.interop]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
N_PARTICIPANTS = 6
FOLLOWS = 71
"""A unit of model.layers.0.mlp that follows surprisal by a standard deviation for a bit."""


def run_example(name, *arguments, fails=False):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def is_picture(file):
    pixels = matplotlib.image.imread(file)[..., :3]
    return min(pixels.shape[:2]) > 100 and pixels.std() > 0.05


def write(synthetic, path, **settings):
    """Unit `ON_UNIT` responds to the task; unit `FOLLOWS` to surprisal, whatever the prompt."""
    scale = synthetic.make_calibration().scale
    with synthetic.create(path, **settings) as writer:
        for participant in range(1, N_PARTICIPANTS + 1):
            recording = synthetic.make_recording(synthetic.make_design(participant))
            tokens = recording.tokens.dropna(subset="volume")
            surprisal = tokens["surprisal"] - tokens.groupby("trial")["surprisal"].transform("mean")
            values = recording.values.copy()
            values[:, FOLLOWS] += surprisal.to_numpy() * scale[FOLLOWS]
            writer.write_run(replace(recording, values=values), t_r=synthetic.t_r)
            writer.finish_participant(f"{participant:02d}")
    return open_dataset(path)


@pytest.fixture(scope="module")
def dataset(synthetic, tmp_path_factory):
    return write(synthetic, tmp_path_factory.mktemp("examples") / "ours")


@pytest.fixture(scope="module")
def addresses(dataset):
    return dataset.space.unit_table()["address"]


@pytest.fixture(scope="module")
def tour(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("tour")
    printed = run_example("nilearn_tour.py", dataset.path, "fossils", out)
    return out, printed, pd.read_csv(out / "tour.tsv", sep="\t")


def test_tour_ends_at_the_unit_that_responds(tour, synthetic, addresses):
    _, printed, _ = tour
    back = printed.partition("Back in the model:")[2].split()
    assert back[:3] == ["address", "value", addresses[synthetic.planted["fossils"]]]


def test_tour_goes_through_every_tool(tour, dataset):
    out, _, table = tour
    found = table.groupby("tool")["value"].agg(list)
    assert found["first_level_from_bids"] == [N_PARTICIPANTS]
    assert found["NiftiMasker"] == [dataset.space.n_units]
    assert found["NiftiLabelsMasker"] == [len(dataset.space.sites)]
    assert found["threshold_stats_img"][1] >= 1
    assert found["Decoder"][0] > 0.7
    assert found["SpaceNet"][0] > 0.7
    assert found["SearchLight"][0] > 0.7
    assert found["CanICA"][0] >= 1
    assert found["DictLearning"][0] >= 1
    assert found["cluster_level_inference"][0] <= 1
    assert found["non_parametric_inference"][0] > 0
    assert found["generate_report"][0] >= 2
    files = {file.name for file in (out / "first-level").rglob("*_statmap.nii.gz")}
    assert any("contrast-fossils_stat-z" in name for name in files)
    for name in ("map.png", "connectome.png", "canica.png", "dictlearning.png"):
        assert is_picture(out / name), name
    assert "brainsprite" in (out / "map.html").read_text()


@pytest.fixture(scope="module")
def human(tmp_path_factory):
    folder = tmp_path_factory.mktemp("human")
    root = Path(run_example("synthetic_human.py", folder, N_PARTICIPANTS).strip())
    out = folder / "out"
    run_example("group_analysis.py", root, "main", "MNI", out, "--contrast", "c0")
    return root, out


def test_group_analysis_of_the_synthetic_human_finds_the_spheres(human):
    _, out = human
    sphere_mask = runpy.run_path(str(EXAMPLES / "synthetic_human.py"))["sphere_mask"]
    image = nib.load(out / "z.nii.gz")
    spheres = sphere_mask(image.shape, image.affine)
    z = image.get_fdata()
    about = json.loads((out / "about.json").read_text())
    above = z > about["threshold"]
    assert above.sum() >= 10
    assert np.mean(above[spheres & (z != 0)]) > 0.3
    # smoothing spreads the noise only; a few voxels may be false (FDR)
    assert np.mean(spheres[above]) > 0.9


def test_group_analysis_is_the_same_script_for_ours(human, dataset, synthetic, tmp_path):
    printed = run_example(
        "group_analysis.py",
        *(dataset.path, "fossils", "Tiny", tmp_path, "--hrf", "none", "--beside", human[1]),
    )
    assert f"ours: fossils (Tiny): {N_PARTICIPANTS} participants" in printed
    z = dataset.space.to_units(str(tmp_path / "z.nii.gz"))
    assert z.argmax() == synthetic.planted["fossils"]
    about = json.loads((tmp_path / "about.json").read_text())
    place = np.linalg.solve(dataset.space.affine, [*about["peak"], 1])[:3]
    np.testing.assert_allclose(place, dataset.space.voxels[synthetic.planted["fossils"]], atol=1e-6)
    assert is_picture(tmp_path / "figure.png")
    both = matplotlib.image.imread(tmp_path / "figure.png").shape
    alone = matplotlib.image.imread(human[1] / "figure.png").shape
    assert both[1] == 2 * alone[1]


def test_nothing_but_paths_differs_where_ours_has_a_response(dataset, synthetic, tmp_path):
    """The human call, on a dataset that was recorded with --hrf: the same unit, the same map."""
    convolved = write(synthetic, tmp_path / "hrf", hrf_series="glover")
    maps = {}
    for name, data, *options in (("hrf", convolved), ("none", dataset, "--hrf", "none")):
        out = tmp_path / f"out-{name}"
        run_example("group_analysis.py", data.path, "fossils", "Tiny", out, *options)
        maps[name] = data.space.to_units(str(out / "z.nii.gz"))
        assert maps[name].argmax() == synthetic.planted["fossils"]
        assert json.loads((out / "about.json").read_text())["n_voxels"] >= 1
    assert np.corrcoef(maps["hrf"], maps["none"])[0, 1] > 0.8


def test_nilearns_default_intersection_keeps_one_panel(dataset):
    """What the script says `connected=False` for."""
    from nilearn.masking import intersect_masks

    masks = [str(run.mask) for run in dataset.runs]
    kept = [
        int((dataset.space.to_units(intersect_masks(masks, **options)) > 0).sum())
        for options in ({}, {"threshold": 1, "connected": False})
    ]
    assert kept[0] < kept[1] == dataset.space.n_units


def test_group_analysis_says_what_is_to_be_chosen(human, tmp_path):
    said = run_example("group_analysis.py", human[0], "main", "MNI", tmp_path, fails=True)
    assert "several trial types (c0, c1, c2)" in said


def test_surprisal_finds_the_unit_that_follows_it(dataset, addresses, tmp_path):
    printed = run_example("surprisal_modulator.py", dataset.path, "fossils", tmp_path)
    units = pd.read_csv(tmp_path / "units.tsv", sep="\t")
    assert units["address"][0] == addresses[FOLLOWS]
    assert addresses[FOLLOWS] in printed
    design = pd.read_csv(tmp_path / "design.tsv", sep="\t")
    tokens = dataset.token_table(dataset.select(task="fossils")[0]).dropna(subset="volume")
    deviation = tokens["surprisal"] - tokens.groupby("trial")["surprisal"].transform("mean")
    np.testing.assert_allclose(design["surprisal"], deviation, atol=1e-6)
    assert np.linalg.matrix_rank(design) == design.shape[1]
    np.testing.assert_allclose(design["fossils"].sum(), len(tokens) / 3)
    assert is_picture(tmp_path / "surprisal.png")


def test_decoding_finds_the_layer_that_knows_the_topic(drinks, tmp_path):
    printed = run_example("decoding.py", drinks, tmp_path, "*.mlp")
    table = pd.read_csv(tmp_path / "layers.tsv", sep="\t")
    scores = table.dropna(subset="layer").set_index("units")["auc"]
    shuffled = table.loc[table["units"] == "shuffled", "auc"]
    assert scores.idxmax() == "model.layers.0.mlp"
    assert scores.max() > shuffled.max()
    assert abs(shuffled.mean() - 0.5) < 0.1
    assert "model.layers.0.mlp[" in printed.partition("chance:")[2]
    assert is_picture(tmp_path / "decoding.png")
