"""Quantized weights: what they are called in a dataset, and the package that they need."""

from typing import Any

_PACKAGES = {
    "aqlm": "aqlm",
    "auto-round": "auto-round",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "eetq",
    "fbgemm_fp8": "fbgemm-gpu",
    "gptq": "optimum gptqmodel",
    "higgs": "flute-kernel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
    "vptq": "vptq",
}
"""Method -> the package on PyPI that reads it."""


def quantization_of(config: Any) -> str | None:
    """Name the method and the bits of a configuration's quantized weights, None of plain ones.

    >>> from types import SimpleNamespace
    >>> quantization_of(SimpleNamespace(quantization_config={"quant_method": "gptq", "bits": 4}))
    'gptq, 4 bits'
    """
    settings = _settings(config)
    if not settings:
        return None
    return ", ".join([_method(settings), *_details(settings)])


def package_hint(config: Any) -> str:
    """Say which package a configuration's quantized weights need; empty of plain weights."""
    name = quantization_of(config)
    if name is None:
        return ""
    package = _PACKAGES.get(_method(_settings(config)))
    install = f": pip install {package}" if package else ""
    return (
        f"its weights are quantized ({name}), which needs a package or a device that is not here"
        f"{install}; or give a checkpoint in float16, bfloat16 or float32"
    )


def _settings(config: Any) -> dict[str, Any]:
    """Read the quantization of a configuration, a dictionary as stored or an object as loaded."""
    stored = getattr(config, "quantization_config", None)
    if stored is None or isinstance(stored, dict):
        return stored or {}
    settings: dict[str, Any] = stored.to_dict()
    return settings


def _method(settings: dict[str, Any]) -> str:
    method = settings.get("quant_method") or "unnamed method"
    return str(getattr(method, "value", method)).lower()


def _details(settings: dict[str, Any]) -> list[str]:
    """List bits and type of number, as far as a method states them."""
    bits = [settings.get(key) for key in ("bits", "nbits", "num_bits", "w_bit")]
    details = [f"{number} bits" for number in bits if isinstance(number, int)]
    details += [f"{n} bits" for n in (4, 8) if settings.get(f"load_in_{n}bit")]
    if settings.get("load_in_4bit"):
        details.append(str(settings.get("bnb_4bit_quant_type")))
    kinds = (settings.get("weights"), _torchao_type(settings.get("quant_type")))
    details += [kind for kind in kinds if isinstance(kind, str)]
    for group in (settings.get("config_groups") or {}).values():  # compressed-tensors
        weights = group.get("weights") or {}
        if weights.get("num_bits"):
            details.append(f"{weights['num_bits']} bits ({weights.get('type', 'int')})")
    return list(dict.fromkeys(details))


def _torchao_type(kind: Any) -> Any:
    """Find the type's name in ``{"default": {"_type": "Int8WeightOnlyConfig", ...}}``."""
    while isinstance(kind, dict):
        kind = kind.get("default", kind.get("_type"))
    return kind
