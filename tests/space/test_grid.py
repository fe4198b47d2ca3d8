"""One reader for every image: whatever tool stored it anew, the same numbers, or a refusal."""

import gzip
import itertools
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llm2bids
from llm2bids.exceptions import SpaceError
from llm2bids.space.grid import open_image

AFFINE = np.array([[2.0, 0, 0, -6], [0, 2, 0, -7], [0, 0, 2, -8], [0, 0, 0, 1]])
COUNTS = np.random.default_rng(3).integers(8000, 12000, (7, 8, 9, 45)).astype(np.int16)


def series():
    image = nib.Nifti1Image(COUNTS, AFFINE)
    image.header.set_zooms((2, 2, 2, 0.25))
    return image


def turned(image, codes):
    """Store an image anew with other axes, as another tool does."""
    current = nib.io_orientation(image.affine)
    turn = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt(codes))
    other = image.as_reoriented(turn)
    assert nib.aff2axcodes(other.affine) == tuple(codes)
    return nib.Nifti1Image(np.asarray(other.dataobj), other.affine, other.header)


COPIES = {
    **{codes: lambda image, codes=codes: turned(image, codes) for codes in ("LAS", "LPS", "PSR")},
    "IRP": lambda image: turned(image, "IRP"),
    "float64": lambda image: nib.Nifti1Image(image.get_fdata(), image.affine),
    "big-endian": lambda image: nib.Nifti1Image(
        np.asarray(image.dataobj).astype(">i2"), image.affine, nib.Nifti1Header(endianness=">")
    ),
    "empty axes": lambda image: nib.Nifti1Image(
        np.asarray(image.dataobj)[..., np.newaxis, np.newaxis], image.affine
    ),
    "NIfTI-2": lambda image: nib.Nifti2Image(np.asarray(image.dataobj), image.affine),
    "qform only": lambda image: _one_form(image, "sform_code"),
    "sform only": lambda image: _one_form(image, "qform_code"),
}


def _one_form(image, zero):
    other = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    other.header.set_qform(image.affine, code=1)
    other.header.set_sform(image.affine, code=1)
    other.header[zero] = 0
    return nib.Nifti1Image.from_bytes(other.to_bytes())


@pytest.mark.parametrize("extension", ["nii", "nii.gz", "img"])
@pytest.mark.parametrize("kind", COPIES)
def test_a_series_that_another_tool_stored_anew_gives_the_same(tmp_path, kind, extension):
    path = tmp_path / f"bold.{extension}"
    nib.save(COPIES[kind](series()), path)
    image = open_image(path, open_image(series()))
    assert (image.shape[:3], image.n_volumes) == ((7, 8, 9), 45)
    for n_volumes in (1, 7, 45, 100):
        blocks = list(image.blocks(n_volumes))
        assert [start for start, _ in blocks] == list(range(0, 45, n_volumes))
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]).T, COUNTS)
    np.testing.assert_array_equal(image.read().reshape(COUNTS.shape), COUNTS)
    np.testing.assert_array_equal(image.as_nibabel().get_fdata().reshape(COUNTS.shape), COUNTS)


@pytest.mark.parametrize("kind", COPIES)
def test_images_in_memory_and_maps_of_one_volume_give_the_same(tmp_path, kind):
    volume = nib.Nifti1Image(COUNTS[..., 0], AFFINE)
    image = COPIES[kind](volume)
    np.testing.assert_array_equal(open_image(image).volume(), COUNTS[..., 0])
    nib.save(image, tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(open_image(tmp_path / "map.nii.gz").volume(), COUNTS[..., 0])


ALL_ORIENTATIONS = [
    "".join(codes)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*order)
]


@given(
    codes=st.sampled_from(ALL_ORIENTATIONS),
    dtype=st.sampled_from(["int16", "float32", "float64", ">i4"]),
    n_volumes=st.integers(1, 9),
)
def test_any_of_the_48_orientations_gives_the_same(codes, dtype, n_volumes):
    image = turned(nib.Nifti1Image(COUNTS.astype(dtype), AFFINE), codes)
    opened = open_image(image, open_image(series()))
    assert opened.shape == COUNTS.shape
    np.testing.assert_array_equal(opened.read(), COUNTS)
    blocks = [block for _, block in opened.blocks(n_volumes)]
    np.testing.assert_array_equal(np.concatenate(blocks).T, COUNTS)


def test_scaled_numbers_are_scaled_as_nibabel_does(tmp_path):
    image = nib.Nifti1Image(COUNTS, AFFINE)
    image.header.set_slope_inter(0.3, 3)
    for name in ("bold.nii", "bold.nii.gz", "bold.nii.bz2"):
        nib.save(image, tmp_path / name)
        opened = open_image(tmp_path / name)
        np.testing.assert_array_equal(opened.read(), nib.load(tmp_path / name).get_fdata())
        np.testing.assert_array_equal(opened.read(scaled=False), COUNTS)
        assert opened.scale == (float(np.float32(0.3)), 3.0)


def test_masked_voxels_are_in_nilearns_order():
    mask = COUNTS[..., 0] > 10000
    values = np.concatenate([block for _, block in open_image(series()).at(np.argwhere(mask))])
    np.testing.assert_array_equal(values, COUNTS[mask].T)


def moved(image, change):
    affine = image.affine.copy()
    change(affine)
    return nib.Nifti1Image(np.asarray(image.dataobj), affine)


def shifted(affine):
    affine[0, 3] += 2


def oblique(affine):
    angle = np.deg2rad(3)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:] = turn @ affine


def zoomed(affine):
    affine[:3, :3] *= 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: moved(image, shifted), r"its affine is \[\[2.0, 0.0, 0.0, -4.0\]"),
        (lambda image: moved(image, oblique), "its affine is"),
        (lambda image: moved(image, zoomed), r"its affine is \[\[3.0"),
        (lambda image: turned(moved(image, shifted), "LPS"), "its affine is"),
        (lambda image: image.slicer[1:], r"its shape is \(6, 8, 9\), expected \(7, 8, 9\)"),
        (lambda image: turned(image, "LAS").slicer[1:], r"its shape is \(6, 8, 9\)"),
    ],
)
def test_another_grid_is_refused(tmp_path, change, message):
    path = tmp_path / "other.nii.gz"
    nib.save(change(series()), path)
    with pytest.raises(SpaceError, match=rf"other\.nii\.gz is not on the grid of .*{message}"):
        open_image(path, open_image(series(), name="bold.nii.gz"))


def test_a_header_without_orientation_is_refused(tmp_path):
    bare = nib.Nifti1Image(COUNTS, None)
    assert (bare.header["qform_code"], bare.header["sform_code"]) == (0, 0)
    nib.save(bare, tmp_path / "bare.nii.gz")
    old = nib.AnalyzeImage(COUNTS, AFFINE)
    for image in (bare, tmp_path / "bare.nii.gz", old):
        with pytest.raises(SpaceError, match="has no orientation"):
            open_image(image)


def test_two_orientations_in_one_header_are_refused():
    image = series()
    image.set_qform(AFFINE @ np.diag([-1.0, 1, 1, 1]), code=1)
    image.set_sform(AFFINE, code=1)
    with pytest.raises(SpaceError, match="has two orientations"):
        open_image(image)
    image.set_qform(AFFINE, code=1)
    open_image(image)
    image.header["pixdim"][1:4] = 3  # a tool that wrote wrong zooms changed what the qform says
    with pytest.raises(SpaceError, match="has two orientations"):
        open_image(image)


def test_several_volumes_are_no_map():
    with pytest.raises(SpaceError, match="has 45 volumes, expected one"):
        open_image(series()).volume()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (COUNTS[..., 0, 0], r"has shape \(7, 8\); expected three axes"),
        (np.stack([COUNTS[..., :2]] * 3, axis=-1), r"has shape \(7, 8, 9, 2, 3\); expected three"),
        (COUNTS[..., :0], r"has shape \(7, 8, 9, 0\); expected three axes"),
        (COUNTS.astype(np.complex64), "holds complex64; expected real numbers"),
    ],
)
def test_arrays_that_are_no_volumes_are_refused(data, message):
    with pytest.raises(SpaceError, match=message):
        open_image(nib.Nifti1Image(data, AFFINE))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_series_is_named_with_the_volumes_that_can_be_read(tmp_path, share):
    path = tmp_path / "bold.nii.gz"
    nib.save(series(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SpaceError, match=r"bold.nii.gz is truncated or damaged, \d+ of 45 volume"):
        list(open_image(path).blocks())


def test_a_series_with_fewer_volumes_than_its_header_says(tmp_path):
    path = tmp_path / "bold.nii.gz"
    nib.save(series(), path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-900]))
    with pytest.raises(SpaceError, match="44 of 45 volume"):
        list(open_image(path).blocks(5))


def test_damaged_missing_and_foreign_files(tmp_path):
    path = tmp_path / "bold.nii.gz"
    nib.save(series(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\x00" * (len(content) - len(content) // 2)
    path.write_bytes(bytes(content))
    with pytest.raises(SpaceError, match=r"truncated or damaged.*; record it again"):
        open_image(path, remedy="record it again").read()
    with pytest.raises(SpaceError, match=r"none\.nii\.gz does not exist"):
        open_image(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(SpaceError, match="cannot be read as an image"):
        open_image(tmp_path / "text.nii.gz")


ANNEX = ".git/annex/objects/aB/cD/MD5E-s99--0123/MD5E-s99--0123.nii.gz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/annex/objects/MD5E-s99--0123.nii.gz\n", "pointer of git-annex.*`datalad get "),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS.*`git lfs pull"),
    ],
)
def test_pointer_files_are_named(tmp_path, text, message):
    (tmp_path / "map.nii.gz").write_text(text)
    with pytest.raises(SpaceError, match=message):
        open_image(tmp_path / "map.nii.gz")


@pytest.mark.parametrize(
    ("target", "message"),
    [(ANNEX, "link of git-annex.*`datalad get "), ("gone.nii.gz", "is a link to gone.nii.gz")],
)
def test_links_whose_content_is_absent_are_named(tmp_path, target, message):
    (tmp_path / "map.nii.gz").symlink_to(target)
    with pytest.raises(SpaceError, match=message):
        open_image(tmp_path / "map.nii.gz")


def test_nothing_else_in_the_package_reads_images():
    readers = re.compile(
        r"nib\.load|nibabel\.load|import load\b|dataobj|get_fdata|get_data\(|load_img|check_niimg|"
        r"iter_img|resample_(to_)?img|Nifti1Image\.from_"
    )
    root = Path(llm2bids.__file__).parent
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in sorted(root.rglob("*.py"))
        # the length of a human series is in its header; none of its voxels is read
        if path not in (root / "space" / "grid.py", root / "recording" / "human.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if readers.search(line) and not line.strip().startswith((">>>", "..."))
    ]
    assert found == []
