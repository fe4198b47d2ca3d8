"""What other programs read in a NIfTI header, in every kind of image that we write."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.inference.analyze import analyze_group, analyze_participants

pytestmark = pytest.mark.interop

RAW_AND_DERIVATIVE = {
    "sub_T1w": ("float32", 3),
    "sub_bold": ("int16", 4),
    "sub_boldref": ("int16", 3),
    "sub_mask": ("uint8", 3),
    "tpl_T1w": ("float32", 3),
    "tpl_boldmap": ("float32", 3),
    "tpl_dseg": ("int16", 3),
    "tpl_mask": ("uint8", 3),
}
"""Kind of image -> data type and number of axes."""
ANALYSIS = {"sub_mask": ("uint8", 3), "sub_statmap": ("float32", 3), "task_statmap": ("float32", 3)}


@pytest.fixture(scope="session")
def analysis(recorded, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("headers") / "analysis"
    analyze_participants(recorded.path, out, progress=False)
    analyze_group(recorded.path, out, progress=False)
    return out


def kind_of(path):
    """Give what an image is of, and what it is: `sub_bold`."""
    name = path.name.partition(".")[0]
    return f"{re.split('-', name, maxsplit=1)[0]}_{name.rpartition('_')[2]}"


def images_of(folder):
    found = {}
    for path in sorted(folder.rglob("*.nii*")):
        found.setdefault(kind_of(path), []).append(path)
    return found


@pytest.fixture(scope="module", params=["dataset", "analysis"])
def images(request):
    """All images, by kind, with the data type and number of axes that each kind has."""
    if request.param == "dataset":
        return images_of(request.getfixturevalue("recorded").path), RAW_AND_DERIVATIVE
    return images_of(request.getfixturevalue("analysis")), ANALYSIS


@pytest.fixture
def loaded(images):
    return [(path, nib.load(path)) for paths in images[0].values() for path in paths]


def test_every_kind_is_there_with_its_data_type(images):
    found, kinds = images
    assert set(found) == set(kinds)
    for kind, paths in found.items():
        for path in paths:
            image = nib.load(path)
            assert (image.get_data_dtype().name, image.ndim) == kinds[kind], path
            assert image.header.get_data_dtype().newbyteorder("<") == image.get_data_dtype()


def test_sform_and_qform_agree_and_are_ras(loaded, recorded):
    for path, image in loaded:
        qform, qcode = image.get_qform(coded=True)
        sform, scode = image.get_sform(coded=True)
        assert qcode == scode == 1, path
        np.testing.assert_allclose(qform, sform, atol=1e-5)
        np.testing.assert_allclose(sform, recorded.space.affine, atol=1e-5)
        assert nib.aff2axcodes(sform) == ("R", "A", "S"), path
        assert image.header["pixdim"][0] == 1, "no flip"


def test_units_are_millimetres_and_seconds(loaded):
    for path, image in loaded:
        assert image.header.get_xyzt_units() == ("mm", "sec"), path
        np.testing.assert_allclose(image.header.get_zooms()[:3], 2)


def test_repetition_time_is_the_sidecars(recorded):
    series = images_of(recorded.path)["sub_bold"]
    assert len(series) == 2 * len(recorded.runs)
    for path in series:
        sidecar = json.loads(Path(str(path).removesuffix(".nii.gz") + ".json").read_text())
        assert nib.load(path).header.get_zooms()[3] == sidecar["RepetitionTime"], path


def test_values_are_stored_as_they_are(loaded):
    for path, image in loaded:
        raw = nib.Nifti1Header.from_fileobj(nib.openers.ImageOpener(path))
        assert (float(raw["scl_slope"]), float(raw["scl_inter"])) in {(1, 0)}, path
        assert int(raw["vox_offset"]) == 352
        assert raw["magic"].item() == b"n+1"
        assert image.header.extensions == []


def test_windows_fit_the_values(images):
    for kind, paths in images[0].items():
        for path in paths:
            image = nib.load(path)
            window = float(image.header["cal_min"]), float(image.header["cal_max"])
            if kind.endswith(("boldmap", "statmap")):
                assert window == (0, 0), "left to the viewer"
                continue
            assert window[0] < window[1], path
            values = np.asanyarray(image.dataobj)
            # black and white are values that are there, or nearly
            assert values.min() <= window[1], path
            assert values.max() >= window[1] or kind.endswith("boldref"), path


def test_the_description_names_the_space_and_its_fingerprint(loaded, recorded):
    prints = {full[:16] for full in (recorded.fingerprint, recorded.space.fingerprint())}
    for path, image in loaded:
        program, space, fingerprint = image.header["descrip"].item().decode().split()
        assert (program, space) == ("llm2bids", "Tiny"), path
        assert fingerprint in prints, path


def first_of_each(images):
    return [paths[0] for paths in images[0].values()]


def needs(program):
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"{program} is not installed (a package of Debian)"
    )


def output_of(*command):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True
    )
    return done.stdout


@needs("nifti_tool")
def test_nifti_tool_says_that_headers_are_good(images):
    files = first_of_each(images)
    for check, words in (("-check_hdr", "header IS GOOD"), ("-check_nim", "nifti_image IS GOOD")):
        said = output_of("nifti_tool", check, "-infiles", *files)
        assert said.count(words) == len(files), said


@needs("mrinfo")
def test_mrinfo_reads_the_same_grid(images, recorded):
    for path in first_of_each(images):
        image = nib.load(path)
        said = output_of("mrinfo", path, "-size", "-spacing", "-strides", "-transform").split("\n")
        assert [int(n) for n in said[0].split()] == list(image.shape)
        np.testing.assert_allclose([float(n) for n in said[1].split()], image.header.get_zooms())
        assert said[2].split() == [str(axis + 1) for axis in range(image.ndim)], "left to right"
        transform = np.array([[float(n) for n in line.split()] for line in said[3:7]])
        np.testing.assert_allclose(transform[:3, 3], recorded.space.affine[:3, 3], atol=1e-4)


@needs("wb_command")
def test_workbench_reads_the_same_grid(images):
    for path in first_of_each(images):
        image = nib.load(path)
        said = output_of("wb_command", "-file-information", path, "-no-map-info")
        size = re.search(r"^Dimensions: +(.+)$", said, re.M)[1]
        assert [int(n) for n in size.split(",")] == list(image.shape)
        for axis in ("Left to Right", "Posterior to Anterior", "Inferior to Superior"):
            assert axis in said
        if image.ndim == 4:
            assert "NIFTI_UNITS_SEC" in said
            step = float(re.search(r"Map Interval Step: +(\S+)", said)[1])
            assert step == pytest.approx(image.header.get_zooms()[3], abs=1e-3)


@needs("wb_command")
@pytest.mark.parametrize("atlas", ["sites", "heads"])
def test_workbench_takes_the_labels_of_the_atlas(recorded, atlas, tmp_path):
    stem = f"{recorded.derivative}/tpl-Tiny/anat/tpl-Tiny_atlas-{atlas}"
    image, labels, made = f"{stem}_dseg.nii.gz", f"{stem}_labels.txt", tmp_path / "labels.nii.gz"
    output_of("wb_command", "-volume-label-import", image, labels, made)
    said = output_of("wb_command", "-file-information", made)
    table = pd.read_csv(f"{stem}_dseg.tsv", sep="\t")
    rows = re.findall(r"^ +(\d+) +(\w+) +([\d.]+)", said, re.M)
    named = {int(index): (name, float(red)) for index, name, red in rows}
    for row in table.itertuples():
        name, red = named[row.index]
        assert name == row.name
        assert red == pytest.approx(int(row.color[1:3], 16) / 255, abs=1e-3)
