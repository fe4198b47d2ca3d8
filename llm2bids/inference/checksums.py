"""Checksums of what `analyze` writes, in lists that ``sha256sum -c`` checks."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from llm2bids.dataset.check import check_sums
from llm2bids.dataset.check_files import Check
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
    check = Check(path=out_dir)
    if data_files(out_dir / FOLDER, "*.sha256"):
        check_sums(check, progress=progress)
    else:
        check.add(FOLDER, "the results have no checksums; earlier versions wrote none")
    return check


def _list(out_dir: Path, patterns: Iterable[str]) -> str:
    files = {path for pattern in patterns for path in data_files(out_dir, pattern)}
    return list_text(
        {
            PurePosixPath(path.relative_to(out_dir).as_posix()): sha256_of(path)
            for path in files
            if not path.name.endswith(".part")
        }
    )
