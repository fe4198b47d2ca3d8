"""The user's cache folder: what is costly to make and can be made again."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from llm2bids.store.checksums import sha256_of
from llm2bids.store.commit import replace_text

# Seconds after which a file's times show that it was written again: its clock is coarse.
_SETTLED = 2.0


def cache_folder() -> Path:
    """Locate the cache folder, without making it.

    ``$LLM2BIDS_CACHE``, else ``$XDG_CACHE_HOME/llm2bids``, else ``~/.cache/llm2bids``
    (XDG Base Directory Specification 0.8).
    """
    own = os.environ.get("LLM2BIDS_CACHE")
    if own:
        return Path(own).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    base = Path(xdg).expanduser() if xdg else Path.home() / ".cache"
    return base / "llm2bids"


def weights_sha256(paths: Sequence[Path]) -> str:
    """Hash a model's weights: the identity of the model in every image.

    SHA-256 of the file; of several files, the SHA-256 of their ``sha256sum`` lines sorted by file
    name. Hashes are remembered in the cache folder.
    """
    ordered = sorted(paths, key=lambda path: path.name)
    lines = [f"{_remembered_sha256(path)}  {path.name}\n" for path in ordered]
    if len(lines) == 1:
        return lines[0].split()[0]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _remembered_sha256(path: Path) -> str:
    real = path.resolve()
    stat = real.stat()
    # The time of change (ctime) is the system's own: tar, rsync and image layers set the time of
    # modification back, and bytes of the same size would have the hash of the bytes before.
    times = (stat.st_mtime_ns, stat.st_ctime_ns)
    identity = "|".join(map(str, (stat.st_dev, stat.st_ino, stat.st_size, *times)))
    memory = cache_folder() / "weights_sha256.json"
    remembered, _, digest = _read_memory(memory).get(str(real), "").rpartition(" ")
    if remembered == identity:
        return digest
    digest = sha256_of(real)
    if time.time() - stat.st_ctime < _SETTLED:
        return digest  # could be written once more within the same tick of the file's clock
    with suppress(OSError):  # an unwritable cache costs time, not the run
        memory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(memory.with_suffix(".lock")):
            known = _read_memory(memory) | {str(real): f"{identity} {digest}"}
            replace_text(memory, json.dumps(known, indent=1))
    return digest


def _read_memory(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    texts = isinstance(known, dict) and all(isinstance(entry, str) for entry in known.values())
    return known if texts else {}
