"""Every planted fault is found, by the name of its file; what is sound has none."""

import gzip
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.cli.main import main
from llm2bids.dataset.check import accept, check_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError, UsageError
from llm2bids.store.checksums import FOLDER, read_manifest
from tests.synthetic import contents

DERIVATIVE = "derivatives/llm2bids"
BOLD = "sub-01/func/sub-01_task-fossils_bold.nii.gz"
PREPROC = f"{DERIVATIVE}/sub-01/func/sub-01_task-fossils_space-Tiny_desc-preproc_bold.nii.gz"
BOLDREF = f"{DERIVATIVE}/sub-01/func/sub-01_task-fossils_space-Tiny_boldref.nii.gz"
EVENTS = "sub-01/func/sub-01_task-fossils_events.tsv"
STIM = "sub-01/func/sub-01_task-fossils_stim.tsv.gz"
TRANSCRIPT = f"{DERIVATIVE}/sub-01/func/sub-01_task-fossils_desc-transcript_tokens.tsv"
MEAN = f"{DERIVATIVE}/tpl-Tiny/func/tpl-Tiny_stat-mean_boldmap.nii.gz"
STD = f"{DERIVATIVE}/tpl-Tiny/func/tpl-Tiny_stat-std_boldmap.nii.gz"


@pytest.fixture(scope="module")
def other(synthetic, tmp_path_factory) -> Path:
    """A dataset of the same shape with another calibration."""
    calibration = synthetic.make_calibration()
    patched = replace(calibration, mean=calibration.mean + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(synthetic), "make_calibration", lambda self: patched)
        return synthetic.write_dataset(tmp_path_factory.mktemp("other") / "ds", n_participants=1)


@pytest.fixture
def changed(written, tmp_path) -> Path:
    """A copy that may be changed, with hard links as in the first."""
    return copied(written, tmp_path / "copy")


def copied(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    return target


def edit(path: Path, data: bytes) -> None:
    """Write a file as an editor does: in place, links and all."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def flipped(root, other):
    data = bytearray((root / BOLD).read_bytes())
    data[len(data) // 2] ^= 1
    edit(root / BOLD, bytes(data))


def truncated(root, other):
    edit(root / BOLD, (root / BOLD).read_bytes()[:-100])


def without_sidecar(root, other):
    (root / BOLD.replace(".nii.gz", ".json")).unlink()


def without_derived_sidecar(root, other):
    (root / BOLDREF.replace(".nii.gz", ".json")).unlink()


def shifted_row(root, other):
    table = pd.read_csv(root / EVENTS, sep="\t")
    table.loc[2, "onset"] += 0.25
    table.to_csv(root / EVENTS, sep="\t", index=False)


def renamed_trial(root, other):
    text = (root / EVENTS).read_text().splitlines()
    text[4] = text[4].replace("fossils", "votes")
    (root / EVENTS).write_text("\n".join(text) + "\n")


def foreign_image(root, other):
    (root / BOLD).unlink()
    shutil.copy(other / BOLD, root / BOLD)


def foreign_reference(root, other):
    shutil.copy(other / BOLDREF, root / BOLDREF)


def foreign_calibration(root, other):
    shutil.copy(other / MEAN, root / MEAN)


def swapped_maps(root, other):
    first, second = (root / MEAN).read_bytes(), (root / STD).read_bytes()
    (root / MEAN).write_bytes(second)
    (root / STD).write_bytes(first)


def other_tokens(root, other):
    lines = gzip.decompress((root / STIM).read_bytes()).decode().splitlines()
    lines[3], lines[4] = lines[4], lines[3]
    (root / STIM).write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


def missing_volume(root, other):
    image = nib.load(root / BOLD)
    shorter = image.slicer[..., :-1]
    (root / BOLD).unlink()
    shorter.to_filename(root / BOLD)


def uncounted(root, other):
    path = root / "participants.tsv"
    path.write_text(path.read_text().replace("\t48\t", "\t47\t", 1))


FAULTS = [
    (flipped, BOLD, "its compressed data are damaged"),
    (flipped, PREPROC, "its compressed data are damaged"),
    (truncated, BOLD, "it is cut off"),
    (without_sidecar, BOLD.replace(".nii.gz", ".json"), "is missing"),
    (without_derived_sidecar, BOLDREF.replace(".nii.gz", ".json"), "is missing"),
    (shifted_row, EVENTS, r"row 3: onset 12.75 s, the tokens of the transcript say 12.5 s"),
    (renamed_trial, EVENTS, "row 4: trial_type votes, the transcript has fossils"),
    (foreign_image, BOLD, "an image of another space or calibration"),
    (foreign_reference, BOLDREF, "an image of another space or calibration"),
    (foreign_calibration, MEAN, "another calibration"),
    (swapped_maps, MEAN, "another calibration"),
    (other_tokens, STIM, "its tokens are not those of the transcript"),
    (missing_volume, BOLD, "the transcript has 120 volumes"),
    (uncounted, "participants.tsv", "the counts of sub-01 are not those of its runs"),
]
ONLY_IN_CHECKSUMS = (flipped, truncated)


@pytest.mark.parametrize(
    ("plant", "file", "message"), FAULTS, ids=[f"{f[0].__name__}-{i}" for i, f in enumerate(FAULTS)]
)
def test_a_planted_fault_is_found(changed, other, plant, file, message):
    plant(changed, other)
    found = faults_of(changed, file)
    assert any(message in text for text in found), found
    assert message == "is missing" or any(text.startswith("sha256 ") for text in found)
    accept(changed, ["."])  # now the checksums are those of the fault: only the contents tell
    found = faults_of(changed, file)
    assert any(message in text for text in found) == (plant not in ONLY_IN_CHECKSUMS), found


def faults_of(root: Path, file: str) -> list[str]:
    return [fault.message for fault in check_dataset(root).faults if str(fault.file) == file]


def test_sound_datasets_have_no_fault(written, other, capsys):
    assert check_dataset(written).faults == ()
    assert main(["check", str(other), "--quiet"]) == 0
    assert "0 files with faults" in capsys.readouterr().out


def test_the_command_says_which_file_and_what_to_do(changed, capsys):
    without_sidecar(changed, None)
    assert main(["check", str(changed), "-q"]) == 1
    said = capsys.readouterr().out
    assert "sub-01_task-fossils_bold.json\n    is missing\n    -> " in said
    assert "--overwrite" in said
    assert "--accept sub-01/func/sub-01_task-fossils_bold.json" in said


def test_sha256sum_reads_the_lists(changed):
    lists = sorted(str(path.relative_to(changed)) for path in (changed / FOLDER).glob("*.sha256"))
    command = ["sha256sum", "--check", "--strict", "--quiet", *lists]
    assert subprocess.run(command, cwd=changed, check=False).returncode == 0
    shifted_row(changed, None)
    done = subprocess.run(command, cwd=changed, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == f"{EVENTS}: FAILED\n"


def test_the_lists_have_every_file(written):
    files = {name for name in contents(written) if not name.startswith(str(FOLDER))}
    assert {str(place) for place in read_manifest(written)} == files


def test_a_file_that_nobody_knows(changed):
    shutil.copy(changed / EVENTS, changed / EVENTS.replace("fossils", "gossip"))
    (fault,) = check_dataset(changed).faults
    assert "has no checksum" in fault.message
    assert fault.file.name == "sub-01_task-gossip_events.tsv"


def test_a_dataset_of_an_earlier_version(changed):
    shutil.rmtree(changed / FOLDER)
    (fault,) = check_dataset(changed).faults
    assert "the dataset has no checksums" in fault.message
    DatasetWriter.open(changed).close()
    accept(changed, ["."])
    assert check_dataset(changed).faults == ()


@pytest.mark.parametrize("line", ["0" * 64 + "  ../../etc/passwd", "0" * 64 + "  /etc/passwd", "x"])
def test_lists_that_lead_out_or_are_none(changed, line):
    path = changed / FOLDER / "dataset.sha256"
    listed = path.read_text()
    path.write_text(listed + line + "\n")
    (fault,) = check_dataset(changed).faults
    said = f"line {len(listed.splitlines()) + 1} is"
    assert said in fault.message
    with pytest.raises(DatasetError, match=said):
        DatasetWriter.open(changed)


def test_accepting_what_was_changed_on_purpose(changed):
    (changed / "README.md").write_text("# Ours\n" * 40)
    shifted_row(changed, None)
    assert [str(place) for place in accept(changed, ["README.md"])] == ["README.md"]
    assert {str(file) for file in check_dataset(changed).files} == {EVENTS}
    with pytest.raises(UsageError, match="no such file"):
        accept(changed, ["nothing.txt"])
    with pytest.raises(UsageError, match="--accept : no such file"):
        accept(changed, [""])  # an unset variable is not the whole dataset
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        accept(changed, ["../other"])
    (changed / "README.md").write_text("# Ours again\n" * 40)
    for way in ("sub-01/../README.md", str(changed / "README.md")):
        assert {str(path) for path in accept(changed, [way])} <= {"README.md"}
    assert {str(file) for file in check_dataset(changed).files} == {EVENTS}


def test_a_changed_participant_is_not_overwritten_unless_asked(changed, synthetic):
    path = changed / "participants.tsv"
    path.write_text(path.read_text().replace("sub-01\t", "sub-01\tanother-", 1))
    before = contents(changed)
    with pytest.raises(DatasetError, match=r"participants\.tsv: changed after llm2bids wrote it"):
        DatasetWriter.open(changed)
    assert contents(changed) == before
    with DatasetWriter.open(changed, overwrite=True) as writer:
        writer.write_run(synthetic.make_recording(synthetic.make_design(3)), t_r=synthetic.t_r)
        writer.finish_participant("03")
    assert "another-" not in path.read_text()
    assert check_dataset(changed).faults == ()


@pytest.mark.parametrize("file", ["task-fossils_bold.json", "code/models/all_smdl.json"])
def test_edited_sidecars_stay_unless_overwriting_is_asked_for(changed, synthetic, file):
    edited = (changed / file).read_text().replace(": [", ": [ ", 1).replace("{", "{ ", 1)
    (changed / file).write_text(edited)
    with DatasetWriter.open(changed) as writer:
        writer.write_run(synthetic.make_recording(synthetic.make_design(3)), t_r=synthetic.t_r)
        writer.finish_participant("03")
    assert (changed / file).read_text() == edited
    with DatasetWriter.open(changed, overwrite=True) as writer:
        writer.write_run(synthetic.make_recording(synthetic.make_design(4)), t_r=synthetic.t_r)
        writer.finish_participant("04")
    assert (changed / file).read_text() != edited
    assert check_dataset(changed).faults == ()


def test_an_edit_while_the_dataset_is_being_written(changed, synthetic):
    with DatasetWriter.open(changed) as writer:
        (changed / "participants.tsv").write_text("participant_id\tage\n")
        edited = contents(changed)
        with pytest.raises(DatasetError, match=r"participants\.tsv"):
            writer.write_run(synthetic.make_recording(synthetic.make_design(3)), t_r=synthetic.t_r)
    assert contents(changed) == edited


@pytest.mark.parametrize("file", [MEAN, "code/llm2bids_settings.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_runs_are_made_from_may_not_change(changed, file, overwrite):
    edit(changed / file, (changed / file).read_bytes() + b" ")
    before = contents(changed)
    with pytest.raises(DatasetError, match=rf"{Path(file).name}: changed after"):
        DatasetWriter.open(changed, overwrite=overwrite)
    assert contents(changed) == before


def test_edited_files_of_a_run_without_series_are_not_removed(changed):
    (changed / BOLD).unlink()
    shifted_row(changed, None)
    before = contents(changed)
    with pytest.raises(DatasetError, match=r"sub-01_task-fossils_events\.tsv: changed after"):
        DatasetWriter.open(changed)
    assert contents(changed) == before


@pytest.mark.parametrize("plant", [flipped, truncated, without_sidecar, shifted_row, foreign_image])
def test_overwrite_makes_faulty_runs_anew(changed, written, other, synthetic, plant):
    plant(changed, other)
    with DatasetWriter.open(changed):
        pass  # who goes on without it does not forget what is gone
    design = synthetic.make_design(1)
    with DatasetWriter.open(changed, overwrite=True) as writer:
        assert not writer.has_run(design)
        assert writer.has_run(synthetic.make_design(1, "votes"))
        writer.write_run(synthetic.make_recording(design), t_r=synthetic.t_r)
        writer.finish_participant("01")
    assert check_dataset(changed).faults == ()
    assert contents(changed) == contents(written)


def test_without_the_series_a_run_is_made_anew(changed, written, synthetic):
    """Another way than --overwrite: delete the series, and record again."""
    flipped(changed, None)
    (changed / BOLD).unlink()
    with DatasetWriter.open(changed) as writer:
        writer.write_run(synthetic.make_recording(synthetic.make_design(1)), t_r=synthetic.t_r)
        writer.finish_participant("01")
    assert contents(changed) == contents(written)


def test_hard_links_are_hashed_once_and_are_the_same(written):
    known = read_manifest(written)
    names = {str(place): digest for place, digest in known.items()}
    assert names[BOLD] == names[PREPROC]
    assert np.unique([d for p, d in names.items() if p.endswith("_T1w.nii.gz")]).size == 1
