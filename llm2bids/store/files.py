"""Files of a folder: which are data, whether their content is there, and whether they lie in it."""

from pathlib import Path

from llm2bids.exceptions import DatasetError


def inside(root: Path, path: Path) -> Path:
    """Refuse a path that leads out of the dataset, by ``..`` or a symbolic link."""
    resolved = path.resolve()
    if not resolved.is_relative_to(root.resolve()):
        raise DatasetError(
            f"{path} leads out of the dataset, to {resolved}; replace it by the file itself"
        )
    return path


def data_files(folder: Path, pattern: str) -> list[Path]:
    """List files and links that match a pattern, sorted; what begins with a dot is never data."""
    return sorted(
        path
        for path in folder.glob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (path.is_symlink() or path.is_file())
    )
