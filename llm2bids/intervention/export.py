"""Edits and choices of weights as files of other tools: peft, torch, llama.cpp."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.model.edit import Edit
from llm2bids.model.units import Site
from llm2bids.options import checked

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel


@checked
def export_ia3(edit: Edit, folder: str | Path, model: Any) -> Path:
    """Write an edit that scales MLP activations, or sets them to 0, as an (IA)^3 adapter of peft.

    Parameters
    ----------
    edit : Edit
        Of kind ``"scale"``, or ``"set"`` to 0, on sites that go into a down projection.
    folder : str or Path
        Folder of the adapter, for ``peft.PeftModel.from_pretrained``.
    model : transformers model
        The model that the edit is for.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InterventionError
        If the edit does something else than scaling, or a site is no MLP activation.
    """
    from llm2bids.model.weights import down_projections, is_transposed, write_ia3

    zero = edit.kind == "set" and not any(part.values.any() for part in edit.parts)
    if edit.kind != "scale" and not zero:
        raise InterventionError(
            f"edit {edit.label}: {edit.kind} {edit.method} is no (IA)^3 adapter, which scales; "
            "expected an edit of kind scale, or one that sets units to 0"
        )
    model = _of_transformers(model)
    names = down_projections(model, edit.sites)
    factors = {}
    for part in edit.parts:
        values = np.ones(part.site.width, dtype=np.float32)
        values[part.units] = 0 if zero else part.values
        factors[names[part.site.name]] = values
    modules = list(factors)
    transposed = is_transposed(model.get_submodule(modules[0]))
    content = {
        "peft_type": "IA3",
        "base_model_name_or_path": edit.model_name,
        "target_modules": modules,
        "feedforward_modules": modules,
        "fan_in_fan_out": transposed,
        "inference_mode": True,
    }
    target = _write_adapter(folder, content)
    write_ia3(target / "adapter_model.safetensors", factors)
    return target


@checked
def export_lora(
    modules: pd.DataFrame,
    folder: str | Path,
    *,
    n_modules: int = 21,
    rank: int = 8,
    by: Literal["module", "layer"] = "module",
    model_name: str = "",
) -> Path:
    """Write the modules with the most Fisher information as a configuration of peft's LoRA.

    Parameters
    ----------
    modules : DataFrame
        Table ``modules`` of `targets`.
    folder : str or Path
        Folder of ``adapter_config.json``, for ``peft.LoraConfig.from_pretrained``.
    n_modules : int
        Modules that are trained, those with the most Fisher information a parameter. Their share
        in a network is no better than chance.
    rank : int
        Mean rank; each module's is in proportion to its Fisher information, 1 or more.
    by : {"module", "layer"}
        Choose modules one by one, or whole layers until there are as many (``target_modules`` by
        role with ``layers_to_transform``).
    model_name : str
        Name of the base model.

    Returns
    -------
    Path
        The folder. Stacked weights of experts are among its ``target_parameters``.

    Raises
    ------
    UsageError
        If numbers do not fit.
    """
    _check_table(modules, "modules", "module", "parameter", "fisher", "n_parameters")
    known = modules[modules["fisher"] > 0]
    if not 1 <= n_modules <= len(known) or rank < 1:
        raise UsageError(
            f"LoRA of {n_modules} modules of rank {rank}: expected 1 to {len(known)} modules, and "
            "a rank of 1 or more"
        )
    density = known["fisher"] / known["n_parameters"]
    layer = known["module"].str.extract(r"\.(\d+)\.")[0].astype(int)
    order = density.sort_values(ascending=False).index
    if by == "layer":
        ranked = density.groupby(layer).mean().sort_values(ascending=False).index
        size = int(layer.value_counts().max())
        kept = known[layer.isin(ranked[: max(round(n_modules / size), 1)])]
    else:
        kept = known.loc[order[:n_modules]]
    weights = density[kept.index]
    ranks = np.maximum(np.rint(rank * weights / weights.mean()), 1).astype(int)
    stacked = kept["parameter"] == kept["module"]  # experts: a parameter, not a module
    linear = kept[~stacked]
    content: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model_name or None,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": linear["module"].tolist(),
        "rank_pattern": {name: int(ranks[row]) for row, name in linear["module"].items()},
    }
    if by == "layer":
        content["target_modules"] = sorted(set(linear["module"].str.rpartition(".")[2]))
        content["layers_to_transform"] = sorted(set(layer[linear.index].tolist()))
    if stacked.any():
        content["target_parameters"] = kept.loc[stacked, "parameter"].tolist()
    return _write_adapter(folder, content)


@checked
def export_masks(neurons: pd.DataFrame, path: str | Path, loaded: "LoadedModel") -> Path:
    """Write the weights of a network's neurons as masks for their gradients, for plain torch.

    Parameters
    ----------
    neurons : DataFrame
        Table ``neurons`` of `targets`: those of its column ``network``.
    path : str or Path
        A file of safetensors: a bool tensor for each parameter, by its name. Multiply gradients
        with it in ``parameter.register_hook``; Adam without weight decay leaves the rest as it is.
    loaded : LoadedModel
        The model.

    Returns
    -------
    Path
        The file.
    """
    from llm2bids.model.weights import mlp_neurons, write_masks

    chosen = [rows["network"].to_numpy() == 1 for _, rows in _by_site(neurons)]
    model = _of_transformers(loaded)
    layers = mlp_neurons(model, [site for site, _ in _by_site(neurons)])
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_masks(target, model, layers, chosen)
    return target


@checked
def shira_mask_fn(
    neurons: pd.DataFrame, model: Any, *, r: int = 1
) -> tuple[tuple[str, ...], Callable[..., Any]]:
    """Make the ``mask_fn`` with which peft's SHiRA trains the rows of a network's neurons.

    Parameters
    ----------
    neurons : DataFrame
        Table ``neurons`` of `targets`.
    model : transformers model
        The model that the adapter is for, before peft wraps it.
    r : int
        SHiRA trains r * (inputs + outputs) entries of a module: whole rows of the neurons with
        the largest effects, the last one in part.

    Returns
    -------
    target_modules : tuple of str
        For ``ShiraConfig(r=r, target_modules=...)``: linear layers with so many entries.
    mask_fn : callable
        For ``config.mask_fn``.

    Raises
    ------
    InterventionError
        If no module's neurons have so many entries.
    """
    from llm2bids.model.weights import shira_masks

    order = []
    for site, rows in _by_site(neurons):
        kept = rows[rows["network"] == 1].sort_values("effect", key=abs, ascending=False)
        order.append((site, kept["unit"].to_numpy(dtype=np.intp)))
    if r < 1:
        raise UsageError(f"r is {r}; expected 1 or more")
    return shira_masks(_of_transformers(model), order, r)


@checked
def export_control_vector(edit: Edit, path: str | Path, *, model_hint: str = "llama") -> Path:
    """Write an edit that adds a vector to the residual stream as a control vector of llama.cpp.

    Parameters
    ----------
    edit : Edit
        Of kind ``"add"`` on the outputs of decoder layers, as `steer` makes it; its strength is in
        the values (``--control-vector`` without a scale).
    path : str or Path
        The file, ``.gguf``.
    model_hint : str
        Architecture in llama.cpp's names.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InterventionError
        If the edit does something else, or changes the first layer, which llama.cpp cannot.
    """
    from gguf import GGUFWriter

    wrong = [part.site for part in edit.parts if part.site.role != "residual"]
    if edit.kind != "add" or wrong:
        raise InterventionError(
            f"edit {edit.label}: {edit.kind} {edit.method} at "
            f"{wrong[0].name if wrong else edit.sites[0].name} is no control vector; expected an "
            "edit of kind add on the outputs of decoder layers"
        )
    if any(part.site.layer == 0 for part in edit.parts):
        raise InterventionError(
            f"edit {edit.label}: layer 0; llama.cpp adds control vectors from layer 1 on: steer "
            "after another layer (--layers)"
        )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(target, "controlvector")
    writer.add_string("controlvector.model_hint", model_hint)
    writer.add_uint32("controlvector.layer_count", len(edit.parts))
    for part in edit.parts:
        values = np.zeros(part.site.width, dtype=np.float32)
        values[part.units] = part.values * np.float32(edit.strength)
        writer.add_tensor(f"direction.{part.site.layer}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _of_transformers(model: Any) -> Any:
    """Give the model itself, of one that llm2bids loaded too."""
    from llm2bids.model.load import LoadedModel

    model = model.model if isinstance(model, LoadedModel) else model
    if not hasattr(model, "get_submodule"):
        raise UsageError(f"model is a {type(model).__name__}; expected a transformers model")
    return model


def _check_table(table: pd.DataFrame, name: str, *columns: str) -> None:
    """Refuse what is not a table of `targets`."""
    missing = [column for column in columns if column not in table]
    if missing or table.empty:
        fault = f"lacks {', '.join(missing)}" if missing else "has no rows"
        raise UsageError(f"{name}: {fault}; expected the table {name} of llm2bids.targets")


def _by_site(neurons: pd.DataFrame) -> list[tuple[Site, pd.DataFrame]]:
    _check_table(neurons, "neurons", "address", "unit", "effect", "network")
    names = neurons["address"].str.rpartition("[")[0]
    return [
        (Site(name=str(name), layer=None, role="mlp", width=len(rows)), rows)
        for name, rows in neurons.groupby(names, sort=False)
    ]


def _write_adapter(folder: str | Path, content: dict[str, Any]) -> Path:
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / "adapter_config.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return target
