"""Results of `analyze` have checksums, and `check` compares them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from llm2bids.cli.main import main
from llm2bids.inference.analyze import analyze_group, analyze_participants
from llm2bids.inference.statmap import check_analysis


@pytest.fixture(scope="module")
def results(recorded, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("checksums")
    dataset = recorded.write_dataset(folder / "dataset", n_participants=2)
    analyze_participants(dataset, folder / "maps", task=["tea"], progress=False)
    analyze_group(dataset, folder / "maps", task=["tea"], progress=False)
    return dataset, folder / "maps"


@pytest.fixture
def changed(results, tmp_path) -> Path:
    return Path(shutil.copytree(results[1], tmp_path / "maps"))


def test_every_result_has_a_checksum_that_sha256sum_reads(results):
    _, out = results
    lists = sorted((out / "code/checksums").glob("*.sha256"))
    assert [path.name for path in lists] == ["dataset.sha256", "sub-01.sha256", "sub-02.sha256"]
    named = {line.split("  ")[1] for path in lists for line in path.read_text().splitlines()}
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert named == {name for name in there if name.startswith(("sub-", "group/"))}
    assert sum(name.endswith("statmap.nii.gz") for name in named) > 15
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", *(path.relative_to(out) for path in lists)],
        cwd=out, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert check_analysis(out).faults == ()


@pytest.mark.parametrize(
    ("pattern", "plant", "message"),
    [
        ("sub-01/func/*_stat-z_statmap.nii.gz", "flip", "its compressed data are damaged"),
        ("group/*_stat-t_statmap.nii.gz", "cut", "it is cut off"),
        ("sub-02/func/*_stat-effect_statmap.json", "remove", "is missing"),
        ("group/*_clusters.tsv", "append", "it was written with"),
    ],
)
def test_a_planted_fault_is_found(changed, capsys, pattern, plant, message):
    path = sorted(changed.glob(pattern))[0]
    data = bytearray(path.read_bytes())
    if plant == "remove":
        path.unlink()
    elif plant == "flip":
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2] if plant == "cut" else data + b"1\n")
    assert main(["check", str(changed), "-q"]) == 1
    said = capsys.readouterr().out
    assert f"\n  {path.relative_to(changed).as_posix()}\n" in said
    assert message in said
    assert "1 files with faults" in said
    assert "call `llm2bids analyze` as before" in said


def test_what_analyze_did_not_write_is_named_and_older_results_have_none(changed, capsys):
    (changed / "sub-01/func/sub-01_task-tea_notes.txt").write_text("x")
    assert main(["check", str(changed), "-q"]) == 1
    assert "has no checksum" in capsys.readouterr().out
    shutil.rmtree(changed / "code")
    assert main(["check", str(changed), "-q"]) == 1
    assert "the results have no checksums" in capsys.readouterr().out


def test_analysing_again_mends_it(results, changed):
    path = sorted(changed.glob("sub-02/func/*_stat-z_statmap.nii.gz"))[0]
    path.write_bytes(b"")
    analyze_participants(
        results[0], changed, participant_label=["02"], task=["tea"], progress=False
    )
    assert check_analysis(changed).faults == ()
