"""A model's outline: all that follows from its configuration, without its weights."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llm2bids.exceptions import ModelError
from llm2bids.model import embedded
from llm2bids.model.cache import weights_sha256
from llm2bids.model.checkpoint import auto_class, language_model, package_of
from llm2bids.model.dequantize import cached_folder, gguf_config
from llm2bids.model.load import DTYPES, check_dtype
from llm2bids.model.place import EMBEDDED, OFFER, check_gguf, is_gguf, model_label, resolve_adapter
from llm2bids.model.sites import SiteTable, outline_sites


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """What a model is before its weights are there."""

    name: str
    label: str
    config: Any = field(repr=False)
    sites: SiteTable = field(repr=False)
    dtype: str
    """Type that it would run in."""
    n_parameters: int
    """Numbers in its weights, tied ones once."""
    n_vocabulary: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in `dtype`."""
        return self.n_parameters * DTYPES[self.dtype].itemsize


def outline(
    name_or_path: str | Path = EMBEDDED,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | Path | None = None,
) -> Outline:
    """Work out what a model records, from its configuration alone.

    Of a hub model only ``config.json`` is fetched, of a GGUF file only the header is read, a folder
    needs no weights, and an adapter changes nothing.
    """
    chosen = check_dtype(dtype)
    base, base_revision, merged = resolve_adapter(str(name_or_path), adapter)
    config, name = _read_config(base, base_revision or revision, trust_remote_code)
    label = model_label(base)
    if merged is not None:
        name, label = merged.name_of(name), merged.label_of(label)
    config = copy.deepcopy(config)
    auto = auto_class(config, base, trust_remote_code=trust_remote_code)
    if hasattr(config, "quantization_config"):  # a property of the weights' file
        del config.quantization_config
    try:
        with torch.device("meta"):
            model = auto.from_config(
                config,
                dtype=torch.float32,
                attn_implementation="eager",  # the fast ones look at values of the mask
                trust_remote_code=trust_remote_code,
            ).eval()
    except (ValueError, KeyError, AttributeError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"model {name_or_path}: no causal language model can be made of its configuration "
            f"({reason}); {package_of(error) or 'expected one that transformers reads'}"
        ) from error
    model = language_model(model)
    if hasattr(model, "set_experts_implementation"):  # the usual one looks at values
        model.set_experts_implementation("batched_mm")
    # A warning about padding would look at values. Some configurations refuse None where their own
    # default is a number (modernbert-decoder), so it is set past their check.
    vars(model.config)["pad_token_id"] = None
    stored = getattr(config, "dtype", None) or torch.float32
    return Outline(
        name=name,
        label=label,
        config=config,
        sites=outline_sites(model, name),
        dtype=str(stored if isinstance(chosen, str) else chosen).removeprefix("torch."),
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        n_vocabulary=int(model.get_input_embeddings().num_embeddings),
    )


def _read_config(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Any, str]:
    """Read a configuration and the model's name."""
    from transformers import AutoConfig

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    path = Path(name).expanduser()
    try:
        if name == EMBEDDED:
            folder = cached_folder(embedded.NAME, embedded.GGUF_SHA256)
            if folder is not None:
                return AutoConfig.from_pretrained(folder, **local), embedded.NAME
            return gguf_config(embedded.find_gguf()), embedded.NAME
        if is_gguf(path):
            check_gguf(path)
            folder = cached_folder(path.stem, weights_sha256([path]))
            if folder is not None:
                return AutoConfig.from_pretrained(folder, **local), path.name
            return gguf_config(path), path.name
        if path.is_dir():
            return AutoConfig.from_pretrained(path, **local), path.resolve().name
        keywords: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        return AutoConfig.from_pretrained(name, revision=revision or "main", **keywords), name
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"model {name}: its configuration cannot be read ({reason}); expected a folder with "
            f"config.json, a .gguf file, or the name of a hub model; {OFFER}"
        ) from error
