"""Checksums of a dataset's files, in lists that ``sha256sum -c`` checks.

One list for the files of the dataset as a whole and one for each participant, so that a run costs
the writing of a few kilobytes, however large the dataset is.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from llm2bids.exceptions import DatasetError
from llm2bids.store.files import data_files, inside

# Folder of the lists. BIDS leaves what is in ``code/`` to the dataset.
FOLDER = PurePosixPath("code/checksums")

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def list_file(file: PurePosixPath) -> PurePosixPath:
    """Name the list that a file belongs to."""
    owner = next((part for part in file.parts[:-1] if part.startswith("sub-")), "dataset")
    return FOLDER / f"{owner}.sha256"


def has_manifest(root: Path) -> bool:
    """Tell whether a dataset has checksums; those of earlier versions have none."""
    return (root / list_file(PurePosixPath("participants.tsv"))).is_file()


def read_list(path: Path) -> dict[PurePosixPath, str]:
    """Read a list of checksums."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable list of checksums ({error})") from None
    digests = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        file = PurePosixPath(match[2]) if match else PurePosixPath("/")
        if match is None or file.is_absolute() or ".." in file.parts:
            raise DatasetError(
                f"{path}: line {number} is {line[:80]!r}; expected 64 hexadecimal digits, two "
                "spaces and a path within the dataset. Restore the list, or make it anew with "
                "`llm2bids check BIDS_DIR --accept .`"
            )
        digests[file] = match[1]
    return digests


def read_manifest(root: Path) -> dict[PurePosixPath, str]:
    """Read the checksums of all files of a dataset."""
    known: dict[PurePosixPath, str] = {}
    for path in data_files(root / FOLDER, "*.sha256"):
        known |= read_list(inside(root, path))
    return known


def list_text(entries: Mapping[PurePosixPath, str]) -> str:
    """Write a list as ``sha256sum`` does, sorted by file."""
    lines = sorted((str(file), digest) for file, digest in entries.items())
    return "".join(f"{digest}  {file}\n" for file, digest in lines)


def updated_lists(
    root: Path, digests: Mapping[PurePosixPath, str], *, removed: Iterable[PurePosixPath] = ()
) -> dict[PurePosixPath, str]:
    """Write the lists anew that a change concerns."""
    removed = set(removed)
    texts = {}
    for name in sorted({list_file(file) for file in (*digests, *removed)}):
        old = read_list(root / name)
        kept = {file: digest for file, digest in old.items() if file not in removed}
        new = kept | {p: digest for p, digest in digests.items() if list_file(p) == name}
        if new != old:
            texts[name] = list_text(new)
    return texts


def sha256_of(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_edited(root: Path, file: PurePosixPath, known: Mapping[PurePosixPath, str]) -> bool:
    """Tell whether a file differs from its checksum."""
    path = root / file
    return file in known and path.is_file() and sha256_of(path) != known[file]
