"""Layer values as files, read back as encoding toolkits read them."""

import subprocess
from functools import partial

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import netcdf_file

from llm2bids import compare, features, localize, open_dataset
from llm2bids.cli.main import main
from llm2bids.comparison.features import delayed
from llm2bids.exceptions import DatasetError, ModelError, UsageError
from llm2bids.scan.read import read
from tests.brought import bring, environment

MLP = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def stories(tiny_model_dir, tmp_path_factory):
    """Two stories of different length, on a clock of 1 s."""
    folder = tmp_path_factory.mktemp("stories")
    for name, text in (
        ("a", "The senate of Rome voted."),
        ("b", "A scan shows a small shadow in x"),
    ):
        table = pd.DataFrame({"word": text.split()})
        table["onset"], table["duration"] = table.index * 0.6, 0.4
        table.to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    options = {"model": tiny_model_dir("llama"), "device": "cpu", "progress": False}
    return read(folder / "bids", stimuli=folder, t_r=1.0, **options)


def sd_values(dataset, run, name):
    units = dataset.space.site_slices[name]
    values = (dataset.values(run) - dataset.calibration.mean) / dataset.calibration.scale
    return values[:, units]


def test_hdf5_has_an_array_for_each_module(stories, tmp_path):
    files = features(stories.path, tmp_path, sites=["mlp"])
    assert [file.name for file in files] == ["sub-01_task-a.hdf5", "sub-01_task-b.hdf5"]
    for file, run in zip(files, stories.runs, strict=True):
        with h5py.File(file) as opened:
            layers = [name for name in opened if name.startswith("model.")]
            assert MLP in layers and all(".mlp" in name for name in layers)
            np.testing.assert_allclose(opened[MLP][:], sd_values(stories, run, MLP), atol=1e-5)
            confounds = stories.confounds(run)
            np.testing.assert_allclose(opened["word_rate"][:, 0], confounds["word_rate"], rtol=1e-6)
            assert opened["tr_times"][:3].tolist() == [0.5, 1.5, 2.5]
            assert {len(opened[name]) for name in opened} == {len(confounds)}


def test_npz_is_a_dictionary_of_stories(stories, tmp_path):
    for _ in range(2):  # the second time takes the place of the first
        files = features(stories.path, tmp_path, format="npz", sites=[MLP])
    assert {f"{MLP}.npz", "word_rate.npz", "tr_times.npz"} <= {file.name for file in files}
    loaded = dict(np.load(tmp_path / f"{MLP}.npz"))
    assert list(loaded) == ["sub-01_task-a", "sub-01_task-b"]
    for run in stories.runs:
        np.testing.assert_allclose(loaded[run.name], sd_values(stories, run, MLP), atol=1e-5)


def test_neuroids_have_their_layer(stories, tmp_path):
    (file,) = features(
        stories.path, tmp_path, format="neuroid", task="a", sites=["mlp", "*.q_proj"]
    )
    run = stories.runs[0]
    with netcdf_file(file, mmap=False) as opened:
        values = opened.variables["features"]
        assert values.dimensions == ("presentation", "neuroid")
        text = {
            name: [bytes(row).decode().rstrip("\0") for row in opened.variables[name].data]
            for name in ("layer", "neuroid_id", "story", "stimulus_id")
        }
        chosen = np.flatnonzero(np.array(text["layer"]) == MLP)
        np.testing.assert_allclose(values[:, chosen], sd_values(stories, run, MLP), atol=1e-5)
        assert text["neuroid_id"][chosen[3]] == f"{MLP}[3]"
        assert opened.variables["neuron_number"].data[chosen].tolist() == list(range(len(chosen)))
        assert set(text["story"]) == {"a"} and len(set(text["stimulus_id"])) == values.shape[0]


def test_delays_are_those_of_voxelwise_tutorials(stories, tmp_path):
    (file,) = features(stories.path, tmp_path, task="b", sites=[MLP], delays=[1, 3])
    table = sd_values(stories, stories.runs[1], MLP)
    expected = np.zeros((len(table), 2 * table.shape[1]))
    expected[1:, : table.shape[1]] = table[:-1]
    expected[3:, table.shape[1] :] = table[:-3]
    with h5py.File(file) as opened:
        np.testing.assert_allclose(opened[MLP][:], expected, atol=1e-5)
    assert delayed(table, (2,)).shape == table.shape


def test_components_are_those_of_all_runs(stories, tmp_path):
    from sklearn.decomposition import PCA

    features(stories.path, tmp_path, format="npz", sites=[MLP], pca=3)
    found = np.concatenate(list(dict(np.load(tmp_path / f"{MLP}.npz")).values()))
    rows = np.concatenate([sd_values(stories, run, MLP) for run in stories.runs])
    expected = PCA(3, svd_solver="full").fit_transform(rows)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-3)


def test_a_recorded_dataset_has_features_too(synthetic, written, tmp_path):
    files = features(written, tmp_path, format="npz", sites=["*mlp"], participant_label=["01"])
    dataset = open_dataset(written)
    name = "model.layers.0.mlp"
    loaded = dict(np.load(tmp_path / f"{name}.npz"))
    mine = dataset.select(participant_label=["01"])
    assert list(loaded) == [run.name for run in mine] and tmp_path / f"{name}.npz" in files
    np.testing.assert_allclose(loaded[mine[0].name], sd_values(dataset, mine[0], name), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "pickle"}, UsageError, "is 'pickle'; expected 'hdf5', 'npz', 'neuroid'"),
        ({"sites": ["xyz"]}, ModelError, "'xyz'"),
        ({"task": "c"}, DatasetError, "no run of task c; there are a, b"),
        ({"pca": 99}, UsageError, r"--pca 99: expected at most \d+, the units of the smallest"),
        ({"pca": 0}, UsageError, r"--pca\) is 0; expected 1 or more"),
        ({"delays": [-1]}, UsageError, "expected 0 or more"),
        ({"delays": [1], "format": "neuroid"}, UsageError, "without --delays"),
    ],
)
def test_what_is_refused(options, error, message, stories, tmp_path):
    with pytest.raises(error, match=message):
        features(stories.path, tmp_path / "out", **options)


@pytest.mark.parametrize("verb", [features, localize, partial(compare, n_permutations=5)])
def test_results_do_not_go_into_a_dataset(verb, stories):
    before = sorted(stories.path.rglob("*"))
    with pytest.raises(DatasetError, match="is a dataset, and BIDS has no place for these files"):
        verb(stories.path, *([stories.path] * (2 if isinstance(verb, partial) else 1)))
    assert sorted(stories.path.rglob("*")) == before


def test_the_command(stories, tmp_path, capsys):
    argv = ["features", str(stories.path), str(tmp_path), "--sites", "residual", "--format", "npz"]
    assert main([*argv, "--delays", "1,2,3,4", "--pca", "2", "-q"]) == 0
    names = capsys.readouterr().out.split()
    loaded = np.load(next(name for name in names if "layers.0" in name))
    assert {loaded[name].shape[1] for name in loaded} == {8}
    assert main([*argv, "--delays", "soon"]) == 2


@pytest.mark.interop
def test_voxelwise_tutorials_read_it(stories, tmp_path, monkeypatch):
    bring(monkeypatch, "himalaya==0.4.11", "voxelwise_tutorials==0.2.3")
    from voxelwise_tutorials.delayer import Delayer
    from voxelwise_tutorials.io import load_hdf5_array

    file = features(stories.path, tmp_path / "a", sites=[MLP])[0]
    table = load_hdf5_array(str(file), key=MLP)
    np.testing.assert_allclose(table, sd_values(stories, stories.runs[0], MLP), atol=1e-5)
    file = features(stories.path, tmp_path / "b", sites=[MLP], delays=[1, 2])[0]
    expected = Delayer(delays=[1, 2]).fit_transform(table)
    np.testing.assert_allclose(load_hdf5_array(str(file), key=MLP), expected, atol=1e-6)


@pytest.mark.interop
def test_himalaya_finds_the_module_behind_a_signal(stories, tmp_path, monkeypatch):
    bring(monkeypatch, "himalaya==0.4.11")
    from himalaya.ridge import GroupRidgeCV

    names = ["model.layers.0", MLP]
    file = features(stories.path, tmp_path, sites=names, task="b", pca=2)[0]
    with h5py.File(file) as opened:
        spaces = [opened[name][:] for name in names]
    signal = spaces[1] @ np.array([[1.0], [0.5]], dtype=np.float32)
    params = {"n_iter": 20, "progress_bar": False}
    solver = GroupRidgeCV(groups="input", cv=2, random_state=0, solver_params=params)
    parts = solver.fit(spaces, signal).score(spaces, signal, split=True)
    assert parts[1] > 0.9 and parts[1] > 5 * parts[0]


BRAINSCORE = """
import sys
from brainscore_core.supported_data_standards.brainio import assemblies
assembly = assemblies.AssemblyLoader(assemblies.NeuroidAssembly, sys.argv[1]).load()
chosen = assembly.sel(layer=sys.argv[2])
print(chosen.dims, sorted(set(assembly["story"].values)), float(chosen.values.sum()))
"""


@pytest.mark.slow
@pytest.mark.interop
def test_brain_scores_loader_reads_it(stories, tmp_path):
    """Its pins exclude ours: it lives in an environment of its own."""
    python = environment(
        "brainscore",
        *("numpy<2", "xarray==2022.3.0", "pandas<2.3", "netCDF4", "tqdm", "boto3", "Pillow"),
        alone="brainscore-core==2.5.0",
    )
    (file,) = features(stories.path, tmp_path, format="neuroid", task="a", sites=["mlp"])
    command = [python, "-W", "ignore", "-c", BRAINSCORE, file, MLP]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    total = float(sd_values(stories, stories.runs[0], MLP).sum())
    dims, _, rest = said.partition(") ")
    assert dims == "('presentation', 'neuroid'" and rest.startswith("['a']")
    assert float(rest.split()[-1]) == pytest.approx(total, rel=1e-3, abs=1e-2)
