"""What a model's name means: the embedded model, a folder, a GGUF file, or a name on the hub."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm2bids.exceptions import ModelError
from llm2bids.model import embedded
from llm2bids.model.adapter import CONFIG, Adapter, check_peft, read_adapter
from llm2bids.model.cache import weights_sha256
from llm2bids.model.dequantize import (
    cached_folder,
    dequantized_folder,
    gguf_config,
    read_quantization,
)
from llm2bids.store.files import missing_content

# Name under which the model that comes with llm2bids is asked for.
EMBEDDED = "embedded"

# What a message offers where a model cannot be had.
OFFER = "`--model embedded` needs no network"

# Why a pickle is refused, and what to do.
WAY_ROUND = (
    "which can run code when opened; expected *.safetensors: load it once with transformers where "
    "you trust it, and `model.save_pretrained(folder)` writes them"
)


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a model is: the first argument and the keywords of ``from_pretrained``."""

    name: str
    label: str
    path: str
    source: str
    keywords: dict[str, Any]
    # local files, whose hash is the model's; none on the hub, nor where no weights are needed
    weights: tuple[Path, ...] = ()
    known_sha256: str | None = None  # of the weights, where it is known beforehand
    adapter: Adapter | None = None  # what is merged into the weights
    quantization: str | None = None  # what a GGUF file's weights were before
    # gives a GGUF file that has not been dequantized: its header has the configuration
    find_gguf: Callable[[], Path] | None = None

    @property
    def is_on_hub(self) -> bool:
        """Whether the model is a repository of the hub, which has revisions."""
        return "revision" in self.keywords

    def read_config(self) -> Any:
        """Read the configuration."""
        from transformers import AutoConfig
        from transformers.utils import find_adapter_config_file

        if self.find_gguf is not None:
            return gguf_config(self.find_gguf())
        if self.is_on_hub and find_adapter_config_file(
            self.path, revision=self.keywords["revision"]
        ):
            raise ModelError(
                f"model {self.source}: the repository holds an adapter; fetch it with `hf download "
                f"{self.path} --local-dir FOLDER` and give the folder with --model, or with "
                "--adapter beside its base model"
            )
        return AutoConfig.from_pretrained(self.path, **self.keywords)


def model_label(name: str) -> str:
    """Make a BIDS label (letters and digits) from a hub name, a folder or a file.

    >>> model_label("facebook/galactica-125m")
    'galactica125m'
    >>> model_label("embedded")
    'SmolLM2135M'
    """
    if name == EMBEDDED:
        return embedded.LABEL
    last = Path(name).stem if is_gguf(name) else Path(name).name
    return _letters(last) or "model"


def _letters(name: str) -> str:
    """Keep what BIDS allows in a label: letters and digits."""
    return re.sub(r"[^A-Za-z0-9]", "", name)


def is_gguf(name: str | Path) -> bool:
    """Tell a GGUF file by its name, in capitals or not."""
    return Path(name).suffix.lower() == ".gguf"


def locate_model(
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    *,
    dtype: str | None = "auto",
    adapter: str | Path | None = None,
) -> Location:
    """Decide what a name means; local paths are checked before anything is read.

    `dtype` is the type that a GGUF file is dequantized to; None, where only the configuration is
    wanted: then weights and adapter need not be readable.
    """
    base, base_revision, chosen = _resolve_adapter(name, adapter)
    if chosen is not None and dtype is not None:
        check_peft(chosen)
    location = _locate_base(base, base_revision or revision, trust_remote_code, dtype)
    if chosen is None:
        return location
    if revision is not None and base != name:
        raise ModelError(
            f"{name}: an adapter, whose base model {base} has its revision in {CONFIG}; leave "
            "--revision out, or give the base model with --model and the adapter with --adapter"
        )
    return replace(
        location,
        name=f"{location.name} with adapter {chosen.name}",
        label=location.label + _letters(chosen.name),  # its calibration is another
        adapter=chosen,
    )


def _resolve_adapter(
    name: str, adapter: str | Path | None
) -> tuple[str, str | None, Adapter | None]:
    """Tell the base model of a name, its revision, and the adapter that goes into it, if any.

    An adapter is asked for by its folder (`adapter`), lies beside the weights in the model's own
    folder, or is the whole of it: then its configuration names the base model.
    """
    folder = Path(name).expanduser()
    inside = read_adapter(folder) if (folder / CONFIG).is_file() and name != EMBEDDED else None
    if adapter is not None:
        if inside is not None:
            raise ModelError(
                f"{folder}: has an adapter already ({CONFIG}); expected a model without one beside "
                "--adapter"
            )
        return name, None, read_adapter(Path(adapter).expanduser())
    if inside is None or (folder / "config.json").is_file():
        return name, None, inside
    if inside.base is None:
        raise ModelError(
            f"{folder}: an adapter ({inside.method}) whose {CONFIG} names no base model; give the "
            "base model with --model, and the adapter with --adapter"
        )
    return inside.base, inside.base_revision, inside


def _locate_base(
    name: str, revision: str | None, trust_remote_code: bool, dtype: str | None
) -> Location:
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    path = Path(name).expanduser()
    if name == EMBEDDED:
        source = f"{embedded.DISTRIBUTION} (GGUF Q4_1, dequantized to float32)"
        known = {"name": embedded.NAME, "label": embedded.LABEL, "source": source}
        sha256, find = embedded.GGUF_SHA256, embedded.find_gguf
        return _gguf_location(embedded.NAME, sha256, find, dtype, keywords=local, **known)
    if is_gguf(path):
        _check_gguf(path)
        known = {"name": path.name, "label": model_label(name), "source": str(path)}
        sha256 = weights_sha256([path])
        return _gguf_location(path.stem, sha256, lambda: path, dtype, keywords=local, **known)
    if path.is_dir():
        whole = str(path.resolve())
        return Location(
            name=Path(whole).name,
            label=model_label(whole),
            path=str(path),
            source=str(path),
            keywords=local,
            weights=() if dtype is None else checkpoint_files(path),
        )
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name[0] in "./~":
        raise ModelError(
            f"{name}: no such folder; expected a folder with config.json and safetensors weights, "
            f"a .gguf file, or a hub name such as facebook/galactica-125m; {OFFER}"
        )
    keywords = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    return Location(name=name, label=model_label(name), path=name, source=name, keywords=keywords)


def _gguf_location(
    stem: str, sha256: str, find: Callable[[], Path], dtype: str | None, **known: Any
) -> Location:
    """Locate a GGUF file's model, whose weights are kept dequantized in the cache."""
    if dtype is None:
        folder = cached_folder(stem, sha256)
        return Location(path=str(folder or ""), find_gguf=None if folder else find, **known)
    folder = dequantized_folder(stem, sha256, find, dtype=dtype)
    quantization = read_quantization(folder)
    return Location(path=str(folder), known_sha256=sha256, quantization=quantization, **known)


def _check_gguf(path: Path) -> None:
    """Refuse what is no GGUF file, by its name, by its content, or for want of it."""
    reason = missing_content(path)
    if reason:
        raise ModelError(f"{path}: {reason}")
    if not path.is_file():
        raise ModelError(f"{path}: no such GGUF file; check the path")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(
            f"{path}: begins with {magic!r}, not with b'GGUF'; it is damaged or no GGUF file"
        )


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """List the weight files that transformers loads from a folder, as it chooses them itself."""
    for path in sorted(folder.iterdir()):
        relevant = path.suffix in (".json", ".safetensors", ".txt", ".model")
        reason = missing_content(path) if relevant and not path.name.startswith(".") else ""
        if reason:
            raise ModelError(f"{path}: {reason}")
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: no config.json in it; expected a model folder as `save_pretrained` writes"
        )
    single = folder / (_named_weights(folder) or "model.safetensors")
    index = single if single.name.endswith(".index.json") else folder / f"{single.name}.index.json"
    shards = _shards(index) if index.is_file() else ()
    if index != single and single.is_file():
        if shards:
            raise ModelError(
                f"{folder}: two checkpoints, {single.name} and the shards of {index.name}; "
                "expected one: remove the other"
            )
        return (single,)
    if shards:
        return shards
    endings = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".safetensors")
    names = sorted(path.name for path in folder.iterdir() if path.suffix in endings)
    others = [name for name in names if not name.startswith(".")]
    pickles = [name for name in others if not name.endswith(".safetensors")]
    if pickles and len(pickles) == len(others):
        raise ModelError(f"{folder}: weights only as pickle ({pickles[0]}), {WAY_ROUND}")
    raise ModelError(
        f"{folder}: no weights in it that transformers reads (found {', '.join(others) or 'none'})"
        "; expected model.safetensors, or model.safetensors.index.json with its shards: no "
        "*.safetensors weights of another name"
    )


def _named_weights(folder: Path) -> str | None:
    """Read the file name that a configuration asks for in place of transformers' usual one."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = config.get("transformers_weights")
    except (OSError, ValueError, RecursionError, AttributeError):
        return None  # reading the configuration says what is wrong with it
    if name is None:
        return None
    if Path(str(name)).name != name or not str(name).endswith((".safetensors", ".index.json")):
        raise ModelError(
            f"{folder / 'config.json'}: transformers_weights is {name!r}; expected a *.safetensors "
            "file, or an index of some, beside it"
        )
    return str(name)


def _shards(index: Path) -> tuple[Path, ...]:
    """List the shards of an index; anything but safetensors files beside it is refused."""
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{index}: not an index of weights ({type(error).__name__}: {error}); expected what "
            "`save_pretrained` writes"
        ) from None
    for name in sorted(map(str, named)):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"{index}: names {name!r}; expected *.safetensors files beside it: pickles can "
                "run code when opened, and other folders are not the model's"
            )
    files = tuple(index.with_name(str(name)) for name in sorted(map(str, named)))
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise ModelError(
            f"{index}: {', '.join(absent)} of its {len(files)} shards are not in the folder; copy "
            "them there"
        )
    return files
