"""Files of a folder: which are data, which stay within it, and which have their content here."""

import os
from collections.abc import Iterator
from pathlib import Path

from llm2bids.exceptions import DatasetError

# Where git-annex keeps the content of its links, in the dataset's repository or one around it.
_ANNEX = (".git", "annex", "objects")

_ANNEX_POINTER = b"/annex/objects/"
_LFS = b"version https://git-lfs.github.com/spec/"

_MOST_BYTES = 4096  # larger files are no pointers, and need not be opened


def data_files(folder: Path, pattern: str) -> list[Path]:
    """List files and links that match a pattern, sorted; what begins with a dot is never data."""
    # macOS writes a ``._name`` beside each file on disks of other systems
    return [
        path
        for path in sorted(folder.glob(pattern))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (path.is_symlink() or path.is_file())
    ]


def walk_files(folder: Path) -> Iterator[Path]:
    """List all files and links of a folder, without what begins with a dot."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def inside(root: Path, path: Path) -> Path:
    """Refuse a path that leads out of the dataset, by ``..`` or a symbolic link."""
    resolved = path.resolve()
    if resolved.is_relative_to(root.resolve()) or _is_annexed(path, resolved):
        return path
    raise DatasetError(
        f"{path} leads out of the dataset, to {resolved}; replace it by the file itself"
    )


def _is_annexed(path: Path, resolved: Path) -> bool:
    """Tell whether a link leads to git-annex' store of a repository that holds the dataset."""
    parts = resolved.parts
    for start in range(len(parts) - len(_ANNEX)):
        if parts[start : start + len(_ANNEX)] == _ANNEX:
            return path.parent.resolve().is_relative_to(Path(*parts[:start]))
    return False


def missing_content(path: str | Path) -> str:
    """Say why a file's content is not here and how to get it; empty where it is."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        if "annex" in path.readlink().parts:
            return f"is a link of git-annex whose content is not here; run `datalad get {path}`"
        return (
            f"is a link to {path.readlink()}, which is not there; fetch the content "
            f"(e.g. `datalad get {path}`), or mend the link"
        )
    if not path.is_file():
        return ""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return ""
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError:
        return ""  # who opens it says why
    if head.startswith(_LFS):
        return f"is a pointer of Git LFS, not the file itself; run `git lfs pull -I {path.name}`"
    if head.startswith(_ANNEX_POINTER):
        return f"is a pointer of git-annex, not the file itself; run `datalad get {path}`"
    return ""


def refuse_missing(path: Path, *, doing: str = "") -> None:
    """Refuse a file whose content is not here, before it is read or taken for another."""
    if reason := missing_content(path):
        raise DatasetError(f"{path}: {reason}{doing}")
