"""Loading a causal language model by hub name, folder, GGUF file, or the embedded default."""

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from llm2bids.exceptions import ModelError, UsageError
from llm2bids.model.adapter import identity
from llm2bids.model.cache import weights_sha256
from llm2bids.model.checkpoint import (
    auto_class,
    check_seed,
    count_from_padding,
    load_weights,
    package_hint,
    package_of,
    quantization_of,
    random_model,
    state_sha256,
)
from llm2bids.model.device import check_device, main_device, read_device_map
from llm2bids.model.location import (
    EMBEDDED,
    OFFER,
    WAY_ROUND,
    Location,
    checkpoint_files,
    locate_model,
)
from llm2bids.model.tokenizer import Chat, load_tokenizer, neutral_generation
from llm2bids.model.units import first_number

# Names of the floating point types that a model may run in.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Which prompts may run together: of any length, of one length, or none.
Batching = Literal["padded", "equal", "single"]

# `LoadedModel.max_length` of a model that states no longest context (e.g. Mamba).
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A causal language model, ready to be scanned: evaluation mode, no gradients.

    Its ``generation_config`` holds token ids only: penalties and temperatures that a checkpoint
    recommends do not apply, sampling comes from the paradigm.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    label: str  # BIDS label of its space, e.g. SmolLM2135M
    source: str  # where the weights came from: a folder, a file, a hub name
    revision: str | None  # commit on the hub, where known
    # of the files that are loaded; of a GGUF file; of random weights, of what is in memory; with
    # an adapter, of both
    weights_sha256: str
    dtype: str
    device: str
    max_length: int  # longest context in tokens; `NO_LIMIT` where the model states none
    trust_remote_code: bool
    random_weights: int | None = None  # seed of weights drawn at random in place of trained ones
    adapter: str | None = None  # what was merged into the weights
    quantization: str | None = None  # method and bits of quantized weights
    chat: Chat | None = None  # of prompts that go through the tokenizer's chat template
    # settled by `llm2bids.model.exactness.exact_sites`:
    batching: Batching = "padded"  # which prompts run together
    shortest_prompt: int = 1  # tokens that a prompt needs at least

    @property
    def n_vocabulary(self) -> int:
        """Token ids that the model knows, from 0; its tokenizer may have more or fewer."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def pad_token_id(self) -> int:
        """Token that fills up shorter prompts of a batch; never attended to."""
        return int(self.model.generation_config.pad_token_id)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a text, suppressed while a prompt still owes volumes."""
        return tuple(self.model.generation_config.eos_token_id or ())


def load_model(
    name_or_path: str | Path = EMBEDDED,
    *,
    device: str = "auto",
    device_map: str | Path | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    random_weights: int | None = None,
    adapter: str | Path | None = None,
) -> LoadedModel:
    """Load a causal language model: ``"embedded"``, a folder, a ``.gguf`` file, or a hub name.

    `dtype` ``"auto"`` keeps the checkpoint's type. `random_weights` takes the architecture and the
    tokenizer only, and draws the weights from this seed with transformers' own initialisation.
    `adapter` is a folder with an adapter of the model, which is merged into its weights.
    """
    where, chosen = check_device(device), check_dtype(dtype)
    devices = None if device_map is None else read_device_map(device_map, device)
    if random_weights is not None:
        check_seed(random_weights)
    location = locate_model(
        str(name_or_path), revision, trust_remote_code, dtype=dtype, adapter=adapter
    )
    _check_together(location, revision, random_weights, device_map)
    config, tokenizer, model = _load(location, chosen, devices or where, random_weights)
    model.eval().requires_grad_(False)
    # quantized weights, and those of a device map, are where they were loaded
    if quantization_of(model.config) is None and devices is None:
        model.to(where)
    neutral_generation(model, tokenizer)
    unused_positions = count_from_padding(model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        source=location.source,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(main_device(model, where)),
        max_length=longest_context(model.config) - unused_positions,
        trust_remote_code=trust_remote_code,
        random_weights=random_weights,
        adapter=f"{location.adapter.method} {location.adapter.name}" if location.adapter else None,
        **_identity(location, model, config, random_weights),
    )


def _load(
    location: Location, dtype: torch.dtype | str, device: Any, random_weights: int | None
) -> tuple[Any, Any, Any]:
    """Load configuration, tokenizer and model."""
    trust, config = bool(location.keywords["trust_remote_code"]), None
    collects = gc.isenabled()
    gc.disable()  # modules and a model are made, which stay: a sixth of the start
    try:
        config = location.read_config()
        auto = auto_class(config, location.source, trust_remote_code=trust)
        tokenizer = load_tokenizer(location)
        if random_weights is None:
            model = load_weights(location, auto, config, dtype=dtype, device=device)
        else:
            model = random_model(config, seed=random_weights, dtype=dtype, trust_remote_code=trust)
    except ModelError:
        raise
    except Exception as error:  # readers of five formats raise what they like
        raise _not_loaded(location, config, error) from error
    finally:
        if collects:
            gc.enable()
    return config, tokenizer, model


def _check_together(
    location: Location,
    revision: str | None,
    random_weights: int | None,
    device_map: str | Path | None,
) -> None:
    """Refuse options that exclude each other."""
    if revision is not None and not location.is_on_hub:
        raise UsageError(
            f"revision {revision!r}: {location.source} is not a hub model and has no revisions; "
            "leave --revision out"
        )
    if random_weights is not None and location.adapter is not None:
        raise UsageError(
            f"random weights and an adapter ({location.adapter.folder}): expected one of the two; "
            "the base model's architecture is the adapted model's"
        )
    other = "random weights" if random_weights is not None else location.adapter and "an adapter"
    if device_map is not None and other:
        raise UsageError(
            f"device map {str(device_map)!r} and {other}, which need the whole model in memory; "
            "expected one of the two"
        )


def _identity(
    location: Location, model: Any, config: Any, random_weights: int | None
) -> dict[str, Any]:
    """Name and hash what was loaded; transformers forgets a quantization that it undid."""
    if random_weights is not None:
        return {
            "name": f"{location.name} with random weights (seed {random_weights})",
            "label": f"{location.label}Random{random_weights}",  # its calibration is another
            "revision": getattr(config, "_commit_hash", None),
            "weights_sha256": state_sha256(model),
        }
    sha256, commit = location.known_sha256, None
    if sha256 is None:
        files, commit = _weight_files(location)
        sha256 = weights_sha256(files)
    stored = quantization_of(config)
    if stored is not None and quantization_of(model.config) is None:
        stored += f", dequantized to {model.dtype}".replace("torch.", "")
    return {
        "name": location.name,
        "label": location.label,
        "revision": commit,
        "weights_sha256": identity(sha256, location.adapter),
        "quantization": stored or location.quantization,
    }


def check_dtype(dtype: str) -> torch.dtype | str:
    """Look up a floating point type by its name; ``"auto"`` stays as it is."""
    if dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is unknown; expected auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _not_loaded(location: Location, config: Any, error: Exception) -> ModelError:
    """Make one message, which says what to do, of what transformers raised.

    The configuration, where it could be read, says which package is missing.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return ModelError(
            f"model {location.source}: does not fit into the device's memory; "
            "use --dtype bfloat16, another --device, or a smaller model"
        )
    text = str(error)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    heading = 2 if lines and lines[0].endswith(":") else 1
    reason = " ".join(lines[:heading]) or type(error).__name__
    if "trust_remote_code" in text:
        hint = "its code must be allowed to run: --trust-remote-code, if you trust its authors"
    elif package_hint(config):
        hint = package_hint(config)
    elif "model.safetensors" in text and "does not appear to have" in text:
        hint = f"the repository has its weights only as pickle, {WAY_ROUND}"
    elif package_of(error):
        hint = package_of(error)
    elif location.is_on_hub:
        hint = (
            "the hub cannot be reached and the model is not in the local cache, or the name, "
            f"the revision or its safetensors do not exist; {OFFER}"
        )
    else:
        hint = "expected a causal language model that transformers reads"
    return ModelError(f"model {location.source}: cannot be loaded ({reason}): {hint}")


def longest_context(config: Any) -> int:
    """Read how many tokens a model takes at most, `NO_LIMIT` where its configuration is silent."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return max(first_number(config.get_text_config(), *names), 0) or NO_LIMIT


def _weight_files(location: Location) -> tuple[tuple[Path, ...], str | None]:
    """Locate the weight files; on the hub, the snapshot's commit too."""
    if not location.is_on_hub:
        return location.weights, None
    from huggingface_hub import snapshot_download

    revision, wanted = location.keywords["revision"], ["*.safetensors", "*.json"]
    folder = Path(
        snapshot_download(
            location.path, revision=revision, local_files_only=True, allow_patterns=wanted
        )
    )
    return checkpoint_files(folder), folder.name
