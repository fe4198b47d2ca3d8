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

from llm2bids.exceptions import ModelError, first_line
from llm2bids.model.cache import cache_folder
from llm2bids.store.checksums import sha256_of

logger = logging.getLogger(__name__)

_RECORD = "complete.json"

_TYPES = "gguf_types.json"

# Raised where the same file would become other weights or another configuration.
_FORMAT = 2

# Entries of a GGUF header that transformers reads of few architectures or of none, and what its
# configurations call them.
_NAMES = {
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_eps"),
    "attention.scale": ("attention_multiplier",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "embedding_scale": ("embedding_multiplier",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale",),
    "residual_scale": ("residual_multiplier",),
    "use_parallel_residual": ("use_parallel_residual",),
}

# Entries that need no name in the configuration.
_HANDLED = (
    # these show in the shapes of the tensors, or change no value
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "tensor_data_layout",
    "vocab_size",
    # positions, which have a function of their own
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
)

# Entries that change nothing where they are 1.
_ONES = (
    "attention.causal",
    "expert_gating_func",  # 1 is softmax, as transformers has it where it reads no other
    "rope.scale_linear",
    "rope.scaling.attn_factor",
)

# Layers of the models of 27 billion, which scale queries by their width and not by a head's.
_DEEP = {"gemma2": 46, "gemma3": 62}


def dequantized_folder(
    name: str, sha256: str, find: Callable[[], Path], *, dtype: str = "auto"
) -> Path:
    """Locate a GGUF file's plain weights, making them where they are not cached.

    `find` gives the file with that `sha256`; it is asked only where something has to be made. The
    folder holds ``config.json``, ``model.safetensors`` and the tokenizer, complete and checked.
    """
    folder = _folder(name, sha256, dtype)
    if _is_whole(folder):
        return folder  # without the lock: a cache in an image cannot be written
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
        return _config(path, header)


def _folder(name: str, sha256: str, dtype: str) -> Path:
    kept = "float32" if dtype == "auto" else dtype
    return cache_folder() / "gguf" / f"{name}-{sha256[:12]}-{kept}-{_FORMAT}"


def _is_whole(folder: Path) -> bool:
    """Compare the cached files with what was recorded when they were written."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        damaged = [name for name, known in record.items() if _differs(folder / name, known)]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError):
        damaged = [_RECORD]
    if damaged:
        path = folder / damaged[0]
        logger.warning("cached file %s is damaged; making the model's cache anew", path)
        return False
    return {"model.safetensors", "config.json", _TYPES} <= set(record)


def _differs(path: Path, known: dict[str, Any]) -> bool:
    stat = path.stat()
    touched = stat.st_mtime_ns != known["mtime_ns"]
    return bool(stat.st_size != known["size"] or (touched and sha256_of(path) != known["sha256"]))


def _make(folder: Path, gguf: Path, dtype: str) -> None:
    """Dequantize into a temporary folder and rename it."""
    size = gguf.stat().st_size / 1e6
    logger.info("reading %s (%.0f MB, once): its weights are kept in %s", gguf.name, size, folder)
    part = Path(tempfile.mkdtemp(prefix=folder.name + ".", suffix=".part", dir=folder.parent))
    try:
        dequantize(gguf, part, dtype)
        record = {}
        for path in sorted(part.iterdir()):
            stat = path.stat()
            sizes = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            record[path.name] = {**sizes, "sha256": sha256_of(path)}
        (part / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        part.chmod(0o755)
        part.rename(folder)
    except (ImportError, KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ModelError(
            f"{gguf}: transformers cannot read it ({first_line(error)}); expected a whole GGUF "
            "file of an architecture that transformers dequantizes"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_space(path: Path, folder: Path, header: Any, dtype: Any) -> None:
    """Refuse to begin what the disk cannot hold: a GGUF file's weights as plain numbers."""
    n_numbers = sum(math.prod(map(int, tensor.shape)) for tensor in header.tensors)
    needed, free = n_numbers * dtype.itemsize, shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"{path}: its weights take {needed / 1e9:.3g} GB as plain numbers, and {folder.parent} "
            f"has {free / 1e9:.3g} GB free; expected more space there: set LLM2BIDS_CACHE to "
            "another disk, or use --dtype bfloat16"
        )


def dequantize(path: Path, folder: Path, dtype: str = "auto") -> None:
    """Write a GGUF file's model as safetensors, with configuration and tokenizer, to a folder."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    kept = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    with _header_once(path) as header:
        _check_space(path, folder, header, kept)
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
def _header_once(path: Path) -> Iterator[Any]:
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
        yield read(str(path))
    finally:
        gguf.GGUFReader = reader


def _config(path: Path, header: Any) -> Any:
    """Read the configuration, with what transformers passes over in the header."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    architecture = str(header.fields["general.architecture"].contents())
    start = f"{architecture}."
    entries = {
        name.removeprefix(start): field.contents()
        for name, field in header.fields.items()
        if name.startswith(start)
    }
    if "attention.key_length" in entries and architecture in _DEEP:
        is_deep = config.num_hidden_layers == _DEEP[architecture]
        head = config.hidden_size // config.num_attention_heads if is_deep else config.head_dim
        config.query_pre_attn_scalar = head
    taken = _taken(architecture)
    if taken is None:
        return config
    unknown = [
        key
        for key, value in entries.items()
        if key not in taken and key not in _HANDLED and not _apply(config, key, value)
    ]
    _apply_rope(path, header, config, entries)
    if unknown:
        raise ModelError(
            f"{path}: its header has {', '.join(unknown)}, which transformers does not read from "
            "GGUF files; the model would compute something else: use its safetensors checkpoint"
        )
    return config


def _taken(architecture: str) -> set[str] | None:
    """List the entries that transformers reads of an architecture; None where it reads all."""
    from transformers.integrations import ggml

    try:
        from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    except ImportError:  # of transformers 5.24 and later
        GGUF_CONFIG_ARCHS = {}
    if architecture in GGUF_CONFIG_ARCHS:
        return None
    name = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}.get(architecture, architecture)
    mapping = ggml.GGUF_CONFIG_MAPPING.get(name.replace("-", "_"), {})
    return {key for key, value in mapping.items() if value is not None}


def _apply(config: Any, key: str, value: Any) -> bool:
    """Put an entry of the header into the configuration, or find it there; False if unknown."""
    for name in _NAMES.get(key, ()):
        if hasattr(config, name):
            setattr(config, name, value)
            return True
    if key in ("attention.key_length", "attention.value_length"):
        return bool(value == _head_size(config))
    if key == "attention.sliding_window_pattern" and hasattr(config, "layer_types"):
        slides = [kind == "sliding_attention" for kind in config.layer_types]
        if isinstance(value, list):
            return list(map(bool, value)) == slides
        return [bool((layer + 1) % value) for layer in range(len(slides))] == slides
    if key in _ONES:
        return bool(value == 1)
    return not value  # switched off


def _head_size(config: Any) -> int:
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)


def _apply_rope(path: Path, header: Any, config: Any, entries: dict[str, Any]) -> None:
    """Take over how positions are turned and scaled."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    by_layer = {kind: dict(part) for kind, part in rope.items() if isinstance(part, dict)}
    part = by_layer.get("full_attention", rope)  # Gemma 3 slides over its own, unscaled positions
    scaling = str(entries.get("rope.scaling.type") or "none")
    factors = {t.name: t for t in header.tensors if t.name.startswith("rope_f")}
    wrong = []
    if "rope.freq_base" in entries and part:
        part["rope_theta"] = float(entries["rope.freq_base"])
    if "rope.freq_base_swa" in entries and "sliding_attention" in by_layer:
        by_layer["sliding_attention"]["rope_theta"] = float(entries["rope.freq_base_swa"])
    turned = _head_size(config) * part.get("partial_rotary_factor", 1.0)
    if part and entries.get("rope.dimension_count", turned) != int(turned):
        wrong.append(f"rope.dimension_count {entries['rope.dimension_count']}")
    if list(factors) == ["rope_freqs.weight"] and scaling in ("none", "linear") and not by_layer:
        # Llama 3's scaling as the numbers that it comes to: "longrope" divides by given numbers.
        values = [float(value) for value in factors["rope_freqs.weight"].data.ravel()]
        part |= {
            "rope_type": "longrope",
            "short_factor": values,
            "long_factor": values,
            "attention_factor": 1.0,
            "factor": 1.0,
            "original_max_position_embeddings": config.max_position_embeddings,
        }
    elif scaling == "linear" and not factors and part:
        part |= {"rope_type": "linear", "factor": float(entries["rope.scaling.factor"])}
    elif scaling != "none" or factors:
        wrong += [*factors, *([f"rope.scaling.type {scaling}"] if scaling != "none" else [])]
    if wrong:
        raise ModelError(
            f"{path}: its positions are scaled ({', '.join(wrong)}), which transformers does not "
            "read from GGUF files; the model would compute something else: use its safetensors "
            "checkpoint"
        )
    if part:
        config.rope_parameters = by_layer | {"full_attention": part} if by_layer else part


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
