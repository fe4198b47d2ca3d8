import gzip
import hashlib

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llm2bids.dataset.volumes import write_volumes
from llm2bids.exceptions import DatasetError

SHAPE = (5, 6, 7, 8)


def make_header(shape=SHAPE, dtype=np.int16):
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["vox_offset"] = 352
    return header


@settings(max_examples=50)
@given(
    data=hnp.arrays(
        st.sampled_from([np.int16, np.float32]),
        hnp.array_shapes(min_dims=4, max_dims=4, max_side=6),
        elements=st.integers(-100, 100),
    ),
    size=st.integers(1, 7),
    name=st.sampled_from(["a.nii", "a.nii.gz"]),
    order=st.sampled_from("CF"),
)
def test_array_file_array(tmp_path_factory, data, size, name, order):
    path = tmp_path_factory.mktemp("volumes") / name
    starts = range(0, data.shape[3], size)
    blocks = (np.asarray(data[..., start : start + size], order=order) for start in starts)
    write_volumes(path, make_header(data.shape, data.dtype), blocks)
    read = nib.load(path)
    np.testing.assert_array_equal(np.asanyarray(read.dataobj), data)
    assert read.get_data_dtype() == data.dtype
    assert [p.name for p in path.parent.iterdir()] == [name]


def digest(path):
    # digests: comparing the files themselves keeps pytest busy for minutes when they differ
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_same_bytes_however_it_is_cut_and_by_any_number_of_threads(tmp_path):
    rng = np.random.default_rng(3)
    data = (10000 + 500 * rng.standard_normal((70, 71, 72, 13))).astype(np.int16)
    digests = set()
    for size, n_jobs in [(1, 1), (5, 1), (5, 3), (13, 2), (13, 8)] * 3:
        path = tmp_path / "a.nii.gz"
        blocks = (data[..., start : start + size] for start in range(0, 13, size))
        digests.add(write_volumes(path, make_header(data.shape), blocks, n_jobs=n_jobs))
        assert digest(path) in digests
    assert len(digests) == 1
    np.testing.assert_array_equal(nib.load(path).dataobj, data)
    file = path.read_bytes()
    assert file[3] == 0, "no name in the gzip header"
    assert file[4:8] == bytes(4), "no time in the gzip header"


def test_a_block_may_be_changed_once_it_is_written(tmp_path):
    block = np.ones((70, 71, 72, 2), dtype=np.int16, order="F")
    path = tmp_path / "a.nii.gz"

    def blocks():
        for _ in range(3):
            yield block
            block[:] += 1

    write_volumes(path, make_header((70, 71, 72, 6)), blocks(), n_jobs=2)
    means = np.asanyarray(nib.load(path).dataobj).mean(axis=(0, 1, 2))
    assert means.tolist() == [1, 1, 2, 2, 3, 3]


def test_nothing_is_left_when_something_fails(tmp_path):
    def blocks():
        yield np.ones(SHAPE, dtype=np.int16)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_volumes(tmp_path / "a.nii.gz", make_header(), blocks())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n_volumes", [3, 9])
def test_another_number_of_volumes_than_the_header_says_is_refused(tmp_path, n_volumes):
    volumes = np.ones((5, 6, 7, n_volumes), dtype=np.int16)
    with pytest.raises(DatasetError, match=rf"{n_volumes * 420} bytes .* the header says 3360"):
        write_volumes(tmp_path / "a.nii.gz", make_header(), [volumes])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, extension):
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    data = np.random.default_rng(0).integers(-999, 999, (30, 31, 32, 40), dtype=np.int16)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        with pytest.raises(OSError, match="File too large"):
            blocks = (data[..., volume] for volume in range(40))
            write_volumes(tmp_path / f"a{extension}", make_header(data.shape), blocks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_no_larger_than_nibabels_own(tmp_path):
    """How much faster it is, is measured by ``scripts/bench/images.py``."""
    rng = np.random.default_rng(0)
    data = np.zeros((80, 70, 60, 12), dtype=np.int16, order="F")
    data[4:-4, 4:-4, 4:-4] = 10000 + 500 * rng.standard_normal((72, 62, 52, 12))
    write_volumes(tmp_path / "ours.nii.gz", make_header(data.shape), [data])
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "theirs.nii.gz")
    sizes = [(tmp_path / f"{who}.nii.gz").stat().st_size for who in ("ours", "theirs")]
    assert sizes[0] <= sizes[1]
    with gzip.open(tmp_path / "ours.nii.gz") as ours_file:
        assert ours_file.read()[352:] == data.tobytes("F")
