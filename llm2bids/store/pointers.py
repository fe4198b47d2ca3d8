"""Files whose content is elsewhere: pointers and links of git-annex (DataLad) and Git LFS."""

from pathlib import Path

_ANNEX = b"/annex/objects/"
_LFS = b"version https://git-lfs.github.com/spec/"


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
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError:
        return ""  # who opens it says why
    if head.startswith(_LFS):
        return f"is a pointer of Git LFS, not the file itself; run `git lfs pull -I {path.name}`"
    if head.startswith(_ANNEX):
        return f"is a pointer of git-annex, not the file itself; run `datalad get {path}`"
    return ""
