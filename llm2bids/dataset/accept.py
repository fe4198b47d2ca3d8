"""Taking changed files as they are: their checksums are written anew."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from llm2bids.dataset.settings import read_settings
from llm2bids.exceptions import UsageError
from llm2bids.store.checksums import FOLDER, list_place, list_text, read_list, sha256_of
from llm2bids.store.commit import HIDDEN, recover, replace_text
from llm2bids.store.files import data_files, inside, walk_files
from llm2bids.store.lock import DatasetLock


def accept(bids_dir: str | Path, paths: Sequence[str]) -> tuple[PurePosixPath, ...]:
    """Write the checksums of files anew, as they are now."""
    root = Path(bids_dir)
    read_settings(root)
    lock = DatasetLock(root)
    try:
        recover(root)
        lists = _read_lists(root)
        changed = []
        for place in _chosen(root, paths, lists):
            entries = lists.setdefault(list_place(place), {})
            old = entries.pop(place, None)
            if (root / place).is_file():
                entries[place] = sha256_of(inside(root, root / place))
            if entries.get(place) != old:
                changed.append(place)
        for name in sorted({list_place(place) for place in changed}):
            replace_text(root / name, list_text(lists[name]))
    finally:
        lock.release()
    return tuple(changed)


def _read_lists(root: Path) -> dict[PurePosixPath, dict[PurePosixPath, str]]:
    paths = data_files(root / FOLDER, "*.sha256")
    return {FOLDER / path.name: read_list(inside(root, path)) for path in paths}


def _chosen(
    root: Path,
    paths: Sequence[str],
    lists: dict[PurePosixPath, dict[PurePosixPath, str]],
) -> list[PurePosixPath]:
    """List the files that are meant, there or in the lists."""
    listed = {place for entries in lists.values() for place in entries}
    chosen: set[PurePosixPath] = set()
    for text in paths:
        path = inside(root, root / text)
        wanted = PurePosixPath(path.relative_to(root).as_posix())
        there = {
            PurePosixPath(file.relative_to(root).as_posix())
            for file in ([path] if path.is_file() else walk_files(path))
            if file.is_file()
        }
        matching = there | {place for place in listed if place.is_relative_to(wanted)}
        matching = {
            p for p in matching if not p.is_relative_to(FOLDER) and not p.is_relative_to(HIDDEN)
        }
        if not matching:
            raise UsageError(
                f"--accept {text}: no such file in {root} or its checksums; give a path relative "
                "to the dataset"
            )
        chosen |= matching
    return sorted(chosen)
