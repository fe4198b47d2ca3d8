"""What a model's name means: the embedded model, a folder, a GGUF file, or a name on the hub."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2bids.exceptions import ModelError
from llm2bids.model import embedded

EMBEDDED = "embedded"
"""Name under which the model that comes with llm2bids is asked for."""

OFFER = "`--model embedded` needs no network"
"""What a message offers where a model cannot be had."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""Extensions of files that are opened by running what is in them."""

WAY_ROUND = (
    "which can run code when opened; expected *.safetensors: load it once with transformers where "
    "you trust it, and `model.save_pretrained(folder)` writes them"
)
"""Why a pickle is refused, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a model is: the first argument and the keywords of ``from_pretrained``.

    Parameters
    ----------
    name, label, source : str
        As in :class:`llm2bids.model.load.LoadedModel`.
    path : str
        First argument of ``from_pretrained``.
    keywords : dict
        Its keywords.
    weights : tuple of Path or None
        Local weight files, None on the hub.
    known_sha256 : str or None
        Hash of the weights, where it is known beforehand.
    """

    name: str
    label: str
    path: str
    source: str
    keywords: dict[str, Any]
    weights: tuple[Path, ...] | None = None
    known_sha256: str | None = None


def model_label(name: str) -> str:
    """Make a BIDS label (letters and digits) from a model's name.

    Parameters
    ----------
    name : str
        Hub name, folder or file.

    Returns
    -------
    str
        The last part of the name without what BIDS forbids in a label.

    Examples
    --------
    >>> model_label("facebook/galactica-125m")
    'galactica125m'
    >>> model_label("embedded")
    'SmolLM2135M'
    """
    if name == EMBEDDED:
        return embedded.LABEL
    last = Path(name).name.removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9]", "", last) or "model"


def locate_model(name: str, revision: str | None, trust_remote_code: bool) -> Place:
    """Decide what a name means, checking local paths before anything is read.

    Parameters
    ----------
    name : str
        ``"embedded"``, a folder, a ``.gguf`` file or a hub name.
    revision : str or None
        Branch, tag or commit on the hub.
    trust_remote_code : bool
        Whether code that comes with the weights may run.

    Returns
    -------
    Place
        Where to load from.

    Raises
    ------
    ModelError
        If it is none of these, or a folder without safetensors weights.
    """
    label = model_label(name)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    if name == EMBEDDED:
        folder = str(embedded.embedded_folder())
        return Place(
            name=embedded.NAME,
            label=label,
            path=folder,
            source=f"{embedded.DISTRIBUTION} (GGUF Q4_1, dequantized to float32)",
            keywords=local,
            known_sha256=embedded.GGUF_SHA256,
        )
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{name}: no such GGUF file; check the path")
        return Place(
            name=path.name,
            label=label,
            path=str(path.parent),
            source=str(path),
            keywords=local | {"gguf_file": path.name},
            weights=(path,),
        )
    if path.is_dir():
        weights = _check_folder(path)
        return Place(
            name=path.resolve().name,
            label=model_label(str(path.resolve())),
            path=str(path),
            source=str(path),
            keywords=local,
            weights=weights,
        )
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name[0] in "./~":
        raise ModelError(
            f"{name}: no such folder; expected a folder with config.json and safetensors weights, "
            f"a .gguf file, or a hub name such as facebook/galactica-125m; {OFFER}"
        )
    keywords: dict[str, Any] = {"revision": revision or "main"}
    keywords["trust_remote_code"] = trust_remote_code
    return Place(name=name, label=label, path=name, source=name, keywords=keywords)


def _check_folder(folder: Path) -> tuple[Path, ...]:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: no config.json in it; expected a model folder as `save_pretrained` writes"
        )
    weights = tuple(sorted(folder.glob("*.safetensors")))
    if weights:
        _check_index(folder)
        return weights
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise ModelError(f"{folder}: weights only as pickle ({pickles[0]}), {WAY_ROUND}")
    raise ModelError(f"{folder}: no *.safetensors weights in it; expected at least one")


def _check_index(folder: Path) -> None:
    """Refuse an index of shards that names anything but safetensors files of the folder."""
    for path in sorted(folder.glob("*.safetensors.index.json")):
        try:
            named = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path}: not an index of weights ({type(error).__name__}: {error}); expected what "
                "`save_pretrained` writes"
            ) from None
        for name in sorted(map(str, named)):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ModelError(
                    f"{path}: names {name!r}; expected *.safetensors files beside it: pickles can "
                    "run code when opened, and other folders are not the model's"
                )
