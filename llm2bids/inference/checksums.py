"""Checksums of what `analyze` writes, in lists that ``sha256sum -c`` checks."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from llm2bids.dataset.check import Check, check_sums, faults_of
from llm2bids.exceptions import InferenceError
from llm2bids.inference.statmap import checked_output
from llm2bids.store.checksums import FOLDER, list_file, list_text, sha256_of
from llm2bids.store.commit import replace_text
from llm2bids.store.files import data_files

_GROUP = ("group/**/*",)
"""What the group's list has. Reports and calibrations come and go, and what lies at the top is
written anew by every call, perhaps by several at once."""


def list_participants(out_dir: Path, labels: Iterable[str]) -> None:
    """Write the checksums of participants' results, one list for each of them."""
    for label in labels:
        name = list_file(PurePosixPath(f"sub-{label}") / "func" / "any")
        replace_text(out_dir / name, _list(out_dir, (f"sub-{label}/**/*",)))


def list_group(out_dir: Path) -> None:
    """Write the checksums of the group's results, findings among them."""
    replace_text(out_dir / list_file(PurePosixPath("group/any")), _list(out_dir, _GROUP))


def is_analysis(out_dir: Path) -> bool:
    """Tell whether a folder holds results of `analyze`."""
    try:
        checked_output(out_dir)
    except InferenceError:
        return False
    return True


def check_analysis(out_dir: Path, *, progress: bool = False) -> Check:
    """Compare the results of `analyze` with their checksums."""
    faults: dict[PurePosixPath, list[str]] = defaultdict(list)
    there = bool(data_files(out_dir / FOLDER, "*.sha256"))
    if not there:
        faults[FOLDER].append("the results have no checksums; earlier versions wrote none")
    n_files = check_sums(out_dir, faults, progress=progress) if there else 0
    return Check(path=out_dir, faults=faults_of(faults), n_files=n_files, n_runs=0)


def _list(out_dir: Path, patterns: Iterable[str]) -> str:
    files = {path for pattern in patterns for path in data_files(out_dir, pattern)}
    return list_text(
        {
            PurePosixPath(path.relative_to(out_dir).as_posix()): sha256_of(path)
            for path in files
            if not path.name.endswith(".part")
        }
    )
