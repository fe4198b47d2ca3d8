"""Files whose content is elsewhere: pointers and links of git-annex (DataLad) and Git LFS."""

from pathlib import Path

from llm2bids.exceptions import DatasetError

_ANNEX = b"/annex/objects/"
_LFS = b"version https://git-lfs.github.com/spec/"

_MOST_BYTES = 4096
"""Larger files are no pointers, and need not be opened."""


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
    if head.startswith(_ANNEX):
        return f"is a pointer of git-annex, not the file itself; run `datalad get {path}`"
    return ""


def refuse_missing(path: Path, *, doing: str = "") -> None:
    """Refuse a file whose content is not here, before it is read or taken for another."""
    if reason := missing_content(path):
        raise DatasetError(f"{path}: {reason}{doing}")
