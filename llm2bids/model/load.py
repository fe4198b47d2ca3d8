"""Loading a causal language model by hub name, folder, GGUF file, or the embedded default."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from llm2bids.exceptions import ModelError, UsageError
from llm2bids.model.cache import weights_sha256
from llm2bids.model.place import (
    EMBEDDED,
    OFFER,
    WAY_ROUND,
    Place,
    checkpoint_files,
    locate_model,
)
from llm2bids.model.random_weights import (
    check_seed,
    random_label,
    random_model,
    random_name,
    state_sha256,
)

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Names of the floating point types that a model may run in."""

END_TOKENS = frozenset(("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"))
"""Special tokens that end a text by their name, whatever a configuration says."""

TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "merges.txt", "*.tiktoken")
"""Names of the files that a tokenizer can be read from."""

Batching = Literal["padded", "equal", "single"]
"""Which prompts may run together: of any length, of one length, or none."""

NO_LIMIT = 2**31 - 1
"""`LoadedModel.max_length` of a model that states no longest context (e.g. Mamba)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A causal language model, ready to be scanned: evaluation mode, no gradients.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model. Its ``generation_config`` holds token ids only: penalties and temperatures that
        a checkpoint recommends do not apply, sampling comes from the paradigm.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer; ``padding_side`` is "left".
    name : str
        Name as asked for, or of the embedded model.
    label : str
        BIDS label of its space, e.g. ``SmolLM2135M``.
    source : str
        Where the weights came from: a folder, a file, a hub name.
    revision : str or None
        Commit on the hub, where known.
    weights_sha256 : str
        Hash of the weight files (see :func:`llm2bids.model.cache.weights_sha256`); of the
        embedded model, of its GGUF file; of random weights, of what is in memory.
    dtype : str
        Type that the model runs in, e.g. ``float32``.
    device : str
        Device that it runs on, e.g. ``cpu``.
    max_length : int
        Longest context in tokens; `NO_LIMIT` where the model states none.
    trust_remote_code : bool
        Whether code that came with the weights was allowed to run.
    random_weights : int or None
        Seed of weights that were drawn at random in place of the trained ones.
    batching : {"padded", "equal", "single"}
        Which prompts run together: of any length, of one length, or each by itself; settled by
        :func:`llm2bids.model.exactness.exact_sites`, as `shortest_prompt` is.
    shortest_prompt : int
        Tokens that a prompt needs at least.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    label: str
    source: str
    revision: str | None
    weights_sha256: str
    dtype: str
    device: str
    max_length: int
    trust_remote_code: bool
    random_weights: int | None = None
    batching: Batching = "padded"
    shortest_prompt: int = 1

    @property
    def pad_token_id(self) -> int:
        """Token that fills up shorter prompts of a batch; never attended to."""
        return int(self.model.generation_config.pad_token_id)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a text, suppressed while a prompt still owes volumes."""
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            return ()
        return tuple(ends) if isinstance(ends, list) else (int(ends),)


def load_model(
    name_or_path: str | Path = EMBEDDED,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    random_weights: int | None = None,
) -> LoadedModel:
    """Load a causal language model.

    Parameters
    ----------
    name_or_path : str or Path
        ``"embedded"``, a Hugging Face hub name, a local folder with safetensors weights, or a
        ``.gguf`` file.
    device : str
        ``"auto"`` (cuda where there is one, else cpu), or a torch device such as ``"cuda:1"``.
    dtype : {"auto", "float32", "float16", "bfloat16"}
        ``"auto"`` keeps the checkpoint's type.
    revision : str, optional
        Branch, tag or commit on the hub; other models have none.
    trust_remote_code : bool
        Whether code that comes with the weights may run.
    random_weights : int, optional
        Take the architecture and the tokenizer only, and draw the weights from this seed with
        transformers' own initialisation.

    Returns
    -------
    LoadedModel
        The model in evaluation mode, without gradients, with its tokenizer.

    Raises
    ------
    UsageError
        If `device` or `dtype` is unknown or not there, `revision` is given for a model that is
        not on the hub, or `random_weights` is no seed.
    ModelError
        If there is no such model, no safetensors, no causal head, no tokenizer, or weights are
        missing.
    """
    where, chosen = check_device(device), check_dtype(dtype)
    if random_weights is not None:
        check_seed(random_weights)
    place = locate_model(str(name_or_path), revision, trust_remote_code, dtype=dtype)
    is_on_hub = place.weights is None and place.known_sha256 is None
    if revision is not None and not is_on_hub:
        raise UsageError(
            f"revision {revision!r}: {name_or_path} is not a hub model and has no revisions; leave "
            "--revision out"
        )
    with _as_model_error(place), _without_collection():
        config = _load_config(place)
        _check_causal(place, config, trust_remote_code)
        tokenizer = _load_tokenizer(place)
        if random_weights is None:
            model = _load_weights(place, chosen)
        else:
            model = random_model(
                config, seed=random_weights, dtype=chosen, trust_remote_code=trust_remote_code
            )
    model.to(where).eval().requires_grad_(False)
    _neutral_generation(model, tokenizer)
    name, label, sha256, commit = place.name, place.label, place.known_sha256, None
    if random_weights is not None:
        name, label = random_name(name, random_weights), random_label(label, random_weights)
        sha256, commit = state_sha256(model), getattr(config, "_commit_hash", None)
    elif sha256 is None:
        files, commit = _weight_files(place)
        sha256 = weights_sha256(files)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        label=label,
        source=place.source,
        revision=commit,
        weights_sha256=sha256,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(where),
        max_length=_max_length(model.config),
        trust_remote_code=trust_remote_code,
        random_weights=random_weights,
    )


def check_device(device: str) -> torch.device:
    """Find the device that a name means.

    Parameters
    ----------
    device : str
        ``"auto"`` (cuda where there is one, else cpu), or a torch device such as ``"cuda:1"``.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    UsageError
        If it is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {device!r} is unknown; expected auto, cpu, cuda, cuda:N or mps")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there[found.type]:
        raise UsageError(f"device {device!r} is not on this machine; use auto or cpu")
    return found


def check_dtype(dtype: str) -> torch.dtype | str:
    """Look up a type by its name.

    Parameters
    ----------
    dtype : str
        A key of `DTYPES`, or ``"auto"``.

    Returns
    -------
    torch.dtype or str
        The type; ``"auto"`` as it is.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    if dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is unknown; expected auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


@contextmanager
def _without_collection() -> Iterator[None]:
    """Let garbage lie while modules and a model are made, which stay: a sixth of the start."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _as_model_error(place: Place) -> Iterator[None]:
    """Turn what transformers raises into one message that says what to do."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # readers of five formats raise what they like
        if isinstance(error, torch.OutOfMemoryError):
            raise ModelError(
                f"model {place.source}: does not fit into the device's memory; "
                "use --dtype bfloat16, another --device, or a smaller model"
            ) from error
        found = str(error).strip().split("\n")[0] or type(error).__name__
        if "trust_remote_code" in str(error):
            hint = "its code must be allowed to run: --trust-remote-code, if you trust its authors"
        elif _no_safetensors(str(error)):
            hint = f"the repository has its weights only as pickle, {WAY_ROUND}"
        elif place.weights is None and place.known_sha256 is None:
            hint = (
                "the hub cannot be reached and the model is not in the local cache, or the name, "
                f"the revision or its safetensors do not exist; {OFFER}"
            )
        else:
            hint = "expected a causal language model that transformers reads"
        raise ModelError(f"model {place.source}: cannot be loaded ({found}): {hint}") from error


def _no_safetensors(text: str) -> bool:
    """Tell whether transformers misses safetensors files: the rest of the model was found."""
    return "model.safetensors" in text and "does not appear to have" in text


def _load_config(place: Place) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(place.path, **place.keywords)


def _check_causal(place: Place, config: Any, trust_remote_code: bool) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    remote = getattr(config, "auto_map", None) or {}
    if trust_remote_code and "AutoModelForCausalLM" in remote:
        return
    known = type(config) in AutoModelForCausalLM._model_mapping
    stored = getattr(config, "architectures", None) or []
    # A checkpoint trained without a causal head (BertForMaskedLM) must not be given one.
    headless = stored and not set(stored) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if not known or headless or getattr(config, "is_encoder_decoder", False):
        what = ", ".join(stored) or type(config).__name__
        raise ModelError(
            f"model {place.source}: {what} has no causal head, so it cannot generate text token by "
            "token; expected a causal language model (Llama, GPT-2, OPT, Mamba, ...)"
        )


def _load_tokenizer(place: Place) -> Any:
    from transformers import AutoTokenizer

    folder = Path(place.path)
    if place.weights is not None and not any(list(folder.glob(name)) for name in TOKENIZER_FILES):
        # some versions of transformers make one up that knows a few special tokens
        raise ModelError(
            f"model {place.source}: no usable tokenizer (no file of one); expected tokenizer.json "
            "beside the weights, as `tokenizer.save_pretrained(folder)` writes"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.path, **place.keywords)
    except Exception as error:  # the tokenizers library raises plain exceptions
        if place.weights is None:
            raise
        found = str(error).strip().split("\n")[0]
        raise ModelError(
            f"model {place.source}: no usable tokenizer ({found}); expected tokenizer.json beside "
            "the weights, as `tokenizer.save_pretrained(folder)` writes"
        ) from error
    if len(tokenizer) == 0 or not tokenizer("a b")["input_ids"]:
        raise ModelError(
            f"model {place.source}: its tokenizer is empty; expected tokenizer.json beside the "
            "weights, as `tokenizer.save_pretrained(folder)` writes"
        )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_weights(place: Place, dtype: torch.dtype | str) -> Any:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        place.path, dtype=dtype, output_loading_info=True, use_safetensors=True, **place.keywords
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model {place.source}: {len(missing)} weights are not in the checkpoint (first "
            f"{missing[0]}) and would be random; expected all weights of {type(model).__name__}"
        )
    left_out = sorted(name for name in info["unexpected_keys"] if not _can_be_left_out(name, model))
    if left_out:
        raise ModelError(
            f"model {place.source}: the checkpoint has {len(left_out)} weights that "
            f"{type(model).__name__} does not take with this configuration ("
            f"{', '.join(left_out[:5])}{' ...' if len(left_out) > 5 else ''}); what would be "
            "recorded is another model: expected the config.json that was saved with the weights"
        )
    return model


def _can_be_left_out(name: str, model: Any) -> bool:
    """Tell weights that a model makes itself, so that nothing is lost where it does not take them.

    What an architecture leaves out on purpose (heads that draft several tokens, for instance) it
    says itself: transformers does not report those.
    """
    module = name.rpartition(".")[0]
    if re.search(r"(^|\.)rotary\w*\.(inv_freq|cos_cached|sin_cached)$|\.rotary_emb\.", name):
        return True  # from the configuration
    if re.search(r"\.attn\.(masked_bias|bias)$|\.attention\.(masked_bias|bias)$", name):
        return not _has_biases(model, module)  # GPT-2's and NeoX's causal mask, kept in old files
    return name == "lm_head.weight" and bool(model.config.get_text_config().tie_word_embeddings)


def _has_biases(model: Any, module: str) -> bool:
    """Whether an attention module computes by a linear layer of its own, so with a bias."""
    try:
        return isinstance(model.get_submodule(module), torch.nn.Linear)
    except AttributeError:
        return True


def _neutral_generation(model: Any, tokenizer: Any) -> None:
    """Keep the token ids of the generation configuration and nothing else."""
    from transformers import GenerationConfig

    old = getattr(model, "generation_config", None)
    config = model.config.get_text_config()
    ends: set[int] = set()
    for value in (
        getattr(old, "eos_token_id", None),
        getattr(config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        if value is not None:
            ends |= set(value) if isinstance(value, list) else {value}
    # A chat model's end of turn is not the only token that ends a text.
    ids = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    ends |= {token_id for token, token_id in ids if token in END_TOKENS}
    end = sorted(ends)
    fallback = (tokenizer.pad_token_id, getattr(config, "pad_token_id", None), *end, 0)
    model.generation_config = GenerationConfig(
        bos_token_id=getattr(old, "bos_token_id", None),
        eos_token_id=end or None,
        pad_token_id=next(value for value in fallback if value is not None),
        use_cache=True,
    )


def _max_length(config: Any) -> int:
    text = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(text, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return NO_LIMIT


def _weight_files(place: Place) -> tuple[tuple[Path, ...], str | None]:
    """Locate the weight files; on the hub, the snapshot's commit too."""
    if place.weights is not None:
        return place.weights, None
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            place.path,
            revision=place.keywords["revision"],
            local_files_only=True,
            allow_patterns=["*.safetensors", "*.json"],
        )
    )
    return checkpoint_files(folder), folder.name
