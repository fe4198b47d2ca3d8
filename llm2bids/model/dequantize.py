"""GGUF files as models that transformers reads fast: dequantized once, kept in the cache folder.

transformers reads a GGUF file's header three times and dequantizes its tensors at each start. Here
plain weights, configuration and tokenizer are written once as safetensors, by the file's SHA-256.

Each cached file's size, time of change and SHA-256 are recorded when the cache is written. A start
compares size and time; a file whose time differs is hashed again; a file that is missing, of
another size or of another hash makes the cache anew.
"""

import json
import logging
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from llm2bids.exceptions import ModelError
from llm2bids.model.cache import cache_folder, file_sha256

logger = logging.getLogger(__name__)

_RECORD = "complete.json"

_TYPES = "gguf_types.json"

_NUMBERS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
}
"""Numbers of a GGUF header that change what a model computes, and the configuration's names."""


def dequantized_folder(
    name: str, sha256: str, find: Callable[[], Path], *, dtype: str = "auto"
) -> Path:
    """Locate a GGUF file's plain weights, making them where they are not cached.

    `find` gives the file with that `sha256`; it is asked only where something has to be made. The
    folder holds ``config.json``, ``model.safetensors`` and the tokenizer, complete and checked.
    """
    folder = _folder(name, sha256, dtype)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not _is_whole(folder):
                _make(folder, find(), dtype)
    except OSError as error:
        raise ModelError(
            f"cache folder {folder.parent}: the weights of {name} cannot be kept there ({error}); "
            "expected a folder that can be written, with space for them: set LLM2BIDS_CACHE"
        ) from error
    return folder


def cached_folder(name: str, sha256: str) -> Path | None:
    """Locate a GGUF file's configuration in the cache, without making anything."""
    folders = [_folder(name, sha256, dtype) for dtype in ("float32", "bfloat16", "float16")]
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def read_quantization(folder: Path) -> str:
    """Read what types the weights of a dequantized GGUF file had, e.g. ``GGUF F32, Q4_1``."""
    types = json.loads((folder / _TYPES).read_text(encoding="utf-8"))
    return "GGUF " + ", ".join(sorted(types))


def gguf_config(path: Path) -> Any:
    """Read a GGUF file's configuration: from the cache, or from its header."""
    with _header_once(path) as header:
        return _config(path, header())


def _folder(name: str, sha256: str, dtype: str) -> Path:
    kept = "float32" if dtype == "auto" else dtype
    return cache_folder() / "gguf" / f"{name}-{sha256[:12]}-{kept}"


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
    return {"model.safetensors", "config.json", _TYPES} <= set(record)


def _say_damaged(path: Path) -> bool:
    logger.warning("cached file %s is damaged; making the model's cache anew", path)
    return False


def _make(folder: Path, gguf: Path, dtype: str) -> None:
    """Dequantize into a temporary folder and rename it."""
    size = gguf.stat().st_size / 1e6
    logger.info("reading %s (%.0f MB, once): its weights are kept in %s", gguf.name, size, folder)
    part = Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".part", dir=folder.parent))
    try:
        try:
            dequantize(gguf, part, dtype)
        except (ImportError, KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
            found = str(error).strip().split("\n")[0]
            raise ModelError(
                f"{gguf}: transformers cannot read it ({found}); expected a whole GGUF file of an "
                "architecture that transformers dequantizes"
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


def dequantize(path: Path, folder: Path, dtype: str = "auto") -> None:
    """Write a GGUF file's model as safetensors, with configuration and tokenizer, to a folder."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    kept = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    with _header_once(path) as read_header:
        header = read_header()
        config = _config(path, header)
        model, info = AutoModelForCausalLM.from_pretrained(
            path.parent, config=config, dtype=kept, output_loading_info=True, **where
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    if info["missing_keys"]:
        raise ModelError(
            f"{path}: lacks {len(info['missing_keys'])} weights of {type(model).__name__} (first "
            f"{min(info['missing_keys'])}); expected all of them"
        )
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:  # tied weights are written once
            tensors[name] = tensor.contiguous()
        seen.add(tensor.data_ptr())
    _refuse_left_out(path, header, sum(tensor.numel() for tensor in tensors.values()), model)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    # save_pretrained refuses what came out of a GGUF file; the weights are plain floats by now.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    types = dict(Counter(tensor.tensor_type.name for tensor in header.tensors))
    (folder / _TYPES).write_text(json.dumps(types), encoding="utf-8")


@contextmanager
def _header_once(path: Path) -> Iterator[Callable[[], Any]]:
    """Parse a header once for all who read it: a vocabulary of 262,144 takes twenty seconds."""
    import gguf

    reader = gguf.GGUFReader

    @cache
    def read(name: str) -> Any:
        try:
            return reader(name)
        except Exception as error:  # numpy and gguf raise what they like on damaged files
            raise ModelError(
                f"{path}: its header cannot be read ({type(error).__name__}: {error}); the file is "
                "damaged or incomplete, fetch it again"
            ) from error

    gguf.GGUFReader = lambda name, *args, **keywords: read(str(name))
    try:
        yield lambda: read(str(path))
    finally:
        gguf.GGUFReader = reader


def _config(path: Path, header: Any) -> Any:
    """Read the configuration, with what transformers passes over in the header."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    fields = {name.partition(".")[2]: field for name, field in header.fields.items()}
    for key, name in _NUMBERS.items():
        if key in fields:
            if not hasattr(config, name):
                raise ModelError(
                    f"{path}: its header has {key}, which {type(config).__name__} does not know; "
                    "the model would compute something else: use its safetensors checkpoint"
                )
            setattr(config, name, float(fields[key].contents()))
    _apply_rope(path, header, config, fields)
    return config


def _apply_rope(path: Path, header: Any, config: Any, fields: dict[str, Any]) -> None:
    """Take over how positions are scaled, which transformers reads for few architectures."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    scaling = str(fields["rope.scaling.type"].contents()) if "rope.scaling.type" in fields else ""
    factors = {t.name: t for t in header.tensors if t.name.startswith("rope_f")}
    if rope.get("rope_type", "default") != "default" or (scaling in ("", "none") and not factors):
        return
    if list(factors) == ["rope_freqs.weight"] and scaling in ("", "none", "linear"):
        # Llama 3's scaling as the numbers that it comes to: "longrope" divides by given numbers.
        values = [float(value) for value in factors["rope_freqs.weight"].data.ravel()]
        rope |= {
            "rope_type": "longrope",
            "short_factor": values,
            "long_factor": values,
            "attention_factor": 1.0,
            "factor": 1.0,
            "original_max_position_embeddings": config.max_position_embeddings,
        }
    elif scaling == "linear" and not factors:
        rope |= {"rope_type": "linear", "factor": float(fields["rope.scaling.factor"].contents())}
    else:
        what = ", ".join([*factors, *([f"rope.scaling.type {scaling}"] if scaling else [])])
        raise ModelError(
            f"{path}: its positions are scaled ({what}), which transformers does not read from "
            "GGUF files; the model would compute something else: use its safetensors checkpoint"
        )
    config.rope_parameters = rope


def _refuse_left_out(path: Path, header: Any, n_taken: int, model: Any) -> None:
    """Refuse a file with more numbers than went into the model: a tensor would be left out."""
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    stored = {
        tensor.name: math.prod(int(length) for length in tensor.shape)
        for tensor in header.tensors
        if not tensor.name.startswith("rope_f")  # applied in the configuration
    }
    if sum(stored.values()) == n_taken:
        return
    known = get_gguf_hf_weights_map(model, TensorProcessor(config={}))
    names = [name for name in stored if name not in known] or list(stored)
    raise ModelError(
        f"{path}: has {sum(stored.values()):,} numbers, {type(model).__name__} takes {n_taken:,} "
        f"(not known to it: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}); a part "
        "would be left out: use its safetensors checkpoint"
    )
