"""Adapters (LoRA and its kin): merged into their base model, whose sites and heads they keep."""

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llm2bids.exceptions import ModelError
from llm2bids.model.cache import weights_sha256
from llm2bids.store.files import missing_content

# File that makes a folder an adapter.
CONFIG = "adapter_config.json"

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A folder with an adapter, as peft's `save_pretrained` writes it."""

    folder: Path
    method: str
    base: str | None
    base_revision: str | None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name


def identity(base_sha256: str, adapter: Adapter | None) -> str:
    """Hash a model with what is merged into it: the base model's own hash without an adapter."""
    if adapter is None:
        return base_sha256
    files = adapter.folder / CONFIG, adapter.folder / _WEIGHTS  # the scaling is in the first
    lines = f"{base_sha256}  base\n{weights_sha256(files)}  adapter\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def read_adapter(folder: Path) -> Adapter:
    """Read what an adapter is and check that its weights are there, before a model is loaded."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(
            f"{folder}: no {CONFIG} in it; expected the folder of an adapter, as peft's "
            "`save_pretrained` writes it (of the hub: `hf download NAME --local-dir FOLDER` first)"
        )
    for file in (path, folder / _WEIGHTS):
        why = missing_content(file)
        if why:
            raise ModelError(f"{file}: {why}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        method = str(config["peft_type"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: not an adapter's configuration ({type(error).__name__}: {error}); expected "
            "what peft's `save_pretrained` writes"
        ) from None
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(
            f"{folder}: an adapter ({CONFIG}) without {_WEIGHTS}; expected its weights as "
            "safetensors, as peft's `save_pretrained` writes them"
        )
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    return Adapter(
        folder=folder,
        method=method,
        base=str(base) if base else None,
        base_revision=str(revision) if revision else None,
    )


def check_peft(adapter: Adapter) -> None:
    """Refuse an adapter where the package that reads it is missing."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise ModelError(
            f"{adapter.folder}: an adapter ({adapter.method}), which needs the package peft, and "
            "that is not installed; install it with: pip install 'llm2bids[adapters]'; or take "
            "the adapter out to scan the base model"
        ) from None


def merge_adapter(model: Any, adapter: Adapter) -> Any:
    """Put an adapter into the weights of a model on the cpu; the modules stay those of the base."""
    from peft import PeftConfig, get_peft_model

    if getattr(model.config, "quantization_config", None) is not None:
        raise ModelError(
            f"{adapter.folder}: an adapter is merged into plain weights, and its base model's are "
            "quantized; give the base model in float16, bfloat16 or float32 with --model, and the "
            "adapter with --adapter"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they warn of is checked below
        config = PeftConfig.from_pretrained(str(adapter.folder))
        if config.is_prompt_learning:
            raise ModelError(
                f"{adapter.folder}: {adapter.method} is no change of weights but a trained prompt, "
                "and cannot be merged; expected LoRA or another adapter of weights"
            )
        config.inference_mode = True
        adapted = get_peft_model(model, config)
        result = adapted.load_adapter(str(adapter.folder), "default", torch_device="cpu")
        _check_keys(adapter, result)
        adapted.eval()
        before = _logits(adapted)
        merged = adapted.merge_and_unload(safe_merge=True)
        after = _logits(merged)
    rounding = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}[model.dtype]
    if not float((after - before).abs().max()) <= rounding * float(before.abs().max()):
        raise ModelError(
            f"{adapter.folder}: merged into its base model the adapter computes something else "
            "(weights that are tied, such as embedding and vocabulary head, are adapted apart); "
            "expected an adapter that can be merged"
        )
    return merged.eval()


def _check_keys(adapter: Adapter, result: Any) -> None:
    wrong = [("does not fit the base model", name) for name in result.unexpected_keys]
    wrong += [("is not in the adapter's file", name) for name in result.missing_keys]
    if wrong:
        what, name = wrong[0]
        raise ModelError(
            f"{adapter.folder}: {len(wrong)} weights of the adapter and its base model do not fit "
            f"(first {name}: {what}); expected the base model that it was trained on"
            + (f" ({adapter.base})" if adapter.base else "")
        )


def _logits(model: Any) -> torch.Tensor:
    """Run a few tokens through a model: (n_tokens, n_vocabulary), float32."""
    n_vocabulary = int(model.get_input_embeddings().num_embeddings)
    tokens = torch.arange(1, 9)[None] * 7919 % n_vocabulary
    with torch.no_grad():
        output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    logits: torch.Tensor = output.logits[0].float()
    return logits
