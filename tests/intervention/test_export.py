"""Files for other tools, each read again by its own library."""

import numpy as np
import pandas as pd
import pytest
import torch

import llm2bids
from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.intervention.edit import vector_edit
from llm2bids.intervention.export import (
    export_control_vector,
    export_ia3,
    export_lora,
    export_masks,
    shira_mask_fn,
)
from llm2bids.model.load import load_model
from llm2bids.model.tokenizer import encode
from tests.tiny_models import TEXTS

pytestmark = [  # of peft
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Argument self.mask_type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]


@pytest.fixture
def fresh(tiny_model_dir, tmp_path, monkeypatch):
    """Load a model of its own, which peft may change."""
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))

    def load(architecture="llama"):
        return load_model(tiny_model_dir(architecture), device="cpu")

    return load


def neuron_table(n_layers=3, width=40, units=(3, 8, 21)):
    frame = pd.DataFrame(
        {
            "address": [f"model.layers.{n}.mlp.act_fn[{u}]" for n in range(n_layers)
                        for u in range(width)],
            "unit": np.tile(np.arange(width), n_layers),
            "effect": np.tile(np.linspace(2, 1, width), n_layers),
        }
    )  # fmt: skip
    return frame.assign(network=frame["unit"].isin(units).astype(int))


def module_table(model, layers="model.layers"):
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(layers) and p.dim() > 1]
    return pd.DataFrame(
        {
            "module": [name.removesuffix(".weight") for name, _ in named],
            "parameter": [name for name, _ in named],
            "n_parameters": [p.numel() for _, p in named],
            "fisher": [p.numel() * (1.0 + number) for number, (_, p) in enumerate(named)],
        }
    )


def logits_of(model, loaded):
    with torch.no_grad():
        return model(torch.tensor([encode(loaded, TEXTS[1])])).logits


@pytest.mark.parametrize("method", ["scale", "zero"])
def test_an_ia3_adapter_is_the_edit(scanned, fresh, peft, tmp_path, method):
    loaded = fresh()
    value = {"scale": 3.0}.get(method)
    edit = llm2bids.make_edit(
        scanned, stat_img=np.arange(scanned.space.n_units) % 97 - 48.0, top_percent=10,
        method=method, value=value,
    )  # fmt: skip
    before = logits_of(loaded.model, loaded)
    with llm2bids.edited(loaded, edit):
        hooked = logits_of(loaded.model, loaded)
    folder = export_ia3(edit, tmp_path / "ia3", loaded.model)
    adapted = peft.PeftModel.from_pretrained(loaded.model, folder)
    assert (hooked - before).abs().max() > 1e-3
    torch.testing.assert_close(logits_of(adapted, loaded), hooked, atol=1e-5, rtol=1e-4)


def test_an_edit_that_does_not_scale_is_no_ia3(scanned, fresh, tmp_path):
    edit = llm2bids.make_edit(
        scanned, stat_img=np.arange(scanned.space.n_units) * 1.0, method="mean"
    )
    with pytest.raises(InterventionError, match=r"set mean is no \(IA\)\^3 adapter"):
        export_ia3(edit, tmp_path, fresh().model)


@pytest.mark.parametrize("by", ["module", "layer"])
def test_lora_trains_the_modules_with_the_most_fisher_information(fresh, peft, tmp_path, by):
    loaded = fresh()
    table = module_table(loaded.model)
    folder = export_lora(table, tmp_path / by, n_modules=7, rank=4, by=by)
    config = peft.LoraConfig.from_pretrained(folder)
    adapted = peft.get_peft_model(loaded.model, config)
    ranks = {
        name.removeprefix("base_model.model.").partition(".lora_A")[0]: len(parameter)
        for name, parameter in adapted.named_parameters()
        if "lora_A" in name and parameter.requires_grad
    }
    last = table["module"].tolist()[-7:]
    assert set(ranks) == set(last)  # Fisher information grows with the number of the module
    assert all(name.startswith("model.layers.2.") for name in ranks)
    assert ranks[last[-1]] >= ranks[last[0]] >= 1 and np.mean(list(ranks.values())) == 4
    with pytest.raises(UsageError, match=r"LoRA of 22 modules .* expected 1 to 21"):
        export_lora(table, tmp_path, n_modules=22)


def test_lora_of_experts_names_their_parameters(fresh, peft, tmp_path):
    loaded = fresh("mixtral")
    table = module_table(loaded.model)
    stacked = table[table["parameter"] == table["module"]]
    assert len(stacked) == 2 * 3
    folder = export_lora(table.loc[stacked.index[-2:]], tmp_path / "moe", n_modules=2, rank=2)
    config = peft.LoraConfig.from_pretrained(folder)
    assert sorted(config.target_parameters) == sorted(stacked["parameter"].tolist()[-2:])
    adapted = peft.get_peft_model(loaded.model, config)
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert trained and all("layers.2.mlp.experts" in name and "lora_" in name for name in trained)


def test_masked_gradients_change_these_rows_alone(fresh, tmp_path):
    from safetensors.torch import load_file

    loaded = fresh()
    masks = load_file(export_masks(neuron_table(), tmp_path / "masks.safetensors", loaded))
    assert set(masks) == {
        f"model.layers.{n}.mlp.{p}_proj.weight" for n in range(3) for p in ("gate", "up", "down")
    }
    parameters = dict(loaded.model.named_parameters())
    kept = {name: parameter.clone() for name, parameter in parameters.items()}
    for name, mask in masks.items():
        parameters[name].requires_grad_(True)
        parameters[name].register_hook(lambda grad, mask=mask: grad * mask)
    optimizer = torch.optim.Adam([parameters[name] for name in masks], lr=0.01)
    ids = torch.tensor([encode(loaded, TEXTS[0])])
    loaded.model(ids, labels=ids).loss.backward()
    optimizer.step()
    for name, parameter in parameters.items():
        changed = parameter.detach() != kept[name]
        if name not in masks:
            assert not changed.any()
            continue
        rows = changed.T if "down" in name else changed
        assert np.flatnonzero(rows.any(dim=1).numpy()).tolist() == [3, 8, 21]


def test_shira_trains_entries_of_these_rows_alone(fresh, peft):
    loaded = fresh()
    names, mask_fn = shira_mask_fn(neuron_table(), loaded.model, r=1)
    assert len(names) == 9
    config = peft.ShiraConfig(r=1, target_modules=list(names), mask_type="network")
    config.mask_fn = mask_fn
    kept = {name: p.clone() for name, p in loaded.model.named_parameters()}
    adapted = peft.get_peft_model(loaded.model, config)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 9 * (24 + 40)
    optimizer = torch.optim.SGD(trained, lr=0.5)
    ids = torch.tensor([encode(loaded, TEXTS[0])])
    adapted(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    merged = dict(adapted.merge_and_unload().named_parameters())
    for name in names:
        changed = merged[f"{name}.weight"].detach() != kept[f"{name}.weight"]
        rows = changed.T if "down" in name else changed
        # r * (24 + 40) = 64 entries: two rows of 24, and 16 of the third; the largest effects first
        assert rows.sum(dim=1)[[3, 8, 21]].tolist() == [24, 24, 16]
        assert changed.sum() == 64
    with pytest.raises(InterventionError, match=r"SHiRA with r = 9: .* gradient masks"):
        shira_mask_fn(neuron_table(), loaded.model, r=9)


def test_a_control_vector_is_read_by_gguf(scanned, tmp_path):
    from gguf import GGUFReader

    vector = np.linspace(-1, 1, 24).astype("f4")
    edit = vector_edit(scanned.space, "model.layers.2", vector, strength=4)
    reader = GGUFReader(export_control_vector(edit, tmp_path / "v.gguf"))
    (tensor,) = reader.tensors
    assert tensor.name == "direction.2"
    np.testing.assert_allclose(tensor.data, 4 * vector)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.layer_count").contents() == 1
    first = vector_edit(scanned.space, "model.layers.0", vector)
    with pytest.raises(InterventionError, match=r"layer 0; llama\.cpp adds"):
        export_control_vector(first, tmp_path / "w.gguf")
    with pytest.raises(InterventionError, match="is no control vector"):
        export_control_vector(
            llm2bids.make_edit(scanned, stat_img=np.arange(scanned.space.n_units) * 1.0),
            tmp_path / "x.gguf",
        )


def test_tables_and_models_that_are_none(tiny_loaded, tmp_path):
    loaded, neurons = tiny_loaded("llama"), neuron_table()
    with pytest.raises(UsageError, match="neurons: lacks network; expected the table neurons of"):
        export_masks(neurons.drop(columns="network"), tmp_path / "m.safetensors", loaded)
    with pytest.raises(UsageError, match="neurons: has no rows"):
        shira_mask_fn(neurons.iloc[:0], loaded.model)
    with pytest.raises(UsageError, match="modules: lacks module, parameter, fisher, n_parameters"):
        export_lora(neurons, tmp_path)
    with pytest.raises(UsageError, match="model is a str; expected a transformers model"):
        shira_mask_fn(neurons, "llama")
    with pytest.raises(UsageError, match="by is 'role'; expected 'module', 'layer'"):
        export_lora(module_table(loaded.model), tmp_path, by="role")
    with pytest.raises(UsageError, match="r is 0; expected 1 or more"):
        shira_mask_fn(neurons, loaded.model, r=0)
    assert export_masks(neurons, tmp_path / "m.safetensors", loaded.model).is_file()
