"""The user's cache folder: what is costly to make and can be made again."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

CACHE_VARIABLE = "LLM2BIDS_CACHE"
"""Environment variable that names the cache folder."""


def cache_folder() -> Path:
    """Locate the cache folder, without making it.

    Returns
    -------
    Path
        ``$LLM2BIDS_CACHE``, else ``$XDG_CACHE_HOME/llm2bids``, else ``~/.cache/llm2bids``
        (XDG Base Directory Specification 0.8).
    """
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    base = Path(xdg).expanduser() if xdg else Path.home() / ".cache"
    return base / "llm2bids"


def file_sha256(path: Path) -> str:
    """Hash a file.

    Parameters
    ----------
    path : Path
        File to read.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(paths: Sequence[Path]) -> str:
    """Hash a model's weights: the identity of the model in every image.

    Parameters
    ----------
    paths : sequence of Path
        Weight files.

    Returns
    -------
    str
        SHA-256 of the file; of several files, the SHA-256 of their ``sha256sum`` lines sorted by
        file name. Hashes are remembered in the cache folder by path, size and time of change.
    """
    lines = [f"{_remembered_sha256(path)}  {path.name}\n" for path in sorted(paths, key=_name)]
    if len(lines) == 1:
        return lines[0].split()[0]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _name(path: Path) -> str:
    return path.name


def _remembered_sha256(path: Path) -> str:
    real = path.resolve()
    stat = real.stat()
    key = f"{real}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = cache_folder() / "weights_sha256.json"
    known = _read_memory(memory)
    if key in known:
        return known[key]
    digest = file_sha256(real)
    with suppress(OSError):  # an unwritable cache costs time, not the run
        memory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(memory.with_suffix(".lock")):
            known = _read_memory(memory) | {key: digest}
            part = memory.with_suffix(".part")
            part.write_text(json.dumps(known, indent=1), encoding="utf-8")
            part.replace(memory)
    return digest


def _read_memory(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
