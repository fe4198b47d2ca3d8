"""Edits of running models: what is recorded is what the edit says, and the rest follows from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.model.edit import Edit, SiteEdit, grouped, load_edit
from llm2bids.model.edit_hooks import applied, editable_sites
from llm2bids.model.read import mean_activation, text_nll
from llm2bids.model.sites import find_sites
from llm2bids.model.units import Site
from llm2bids.recording.record import record_run, replay_run
from tests.synthetic import make_design


def make_edit(sites, units, values, kind="set", **changes):
    """An edit of units that are numbered over all sites."""
    parts = grouped(sites, np.asarray(units, dtype=np.intp), np.asarray(values, dtype=np.float32))
    settings = {
        "method": "constant",
        "label": "test",
        "model_name": "tiny",
        "weights_sha256": "0" * 64,
        "space_label": "Tiny",
        "fingerprint": "1" * 64,
    }
    return Edit(kind=kind, parts=parts, **(settings | changes))


def some_units(sites, seed=0, each=2):
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *(site.width for site in sites[:-1])])
    picked = [
        start + rng.choice(site.width, each, replace=False)
        for start, site in zip(starts, sites, strict=True)
    ]
    return rng.permutation(np.concatenate(picked))


def returned_sites(loaded):
    """Sites whose recorded values are what their modules return: routers return scores."""
    return [site for site in find_sites(loaded).sites if site.scores is None]


def test_a_routers_probabilities_cannot_be_edited(tiny_loaded):
    loaded = tiny_loaded("mixtral")
    router = next(site for site in find_sites(loaded).sites if site.scores is not None)
    edit = make_edit([router], [0], [0.5])
    with pytest.raises(InterventionError, match=r"probabilities of experts.*edit the experts"):
        editable_sites(loaded, edit)


ARCHITECTURES = ["llama", "opt", "gpt2", "gpt_neox", "qwen3", "gemma", "mamba", "mixtral"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_site_is_set(architecture, tiny_loaded):
    loaded = tiny_loaded(architecture)
    sites = returned_sites(loaded)
    units = some_units(sites)
    values = np.random.default_rng(1).normal(size=units.size).astype(np.float32)
    edit = make_edit(sites, units, values)
    intact = record_run(loaded, make_design(), sites)
    with applied(loaded.model, edit, editable_sites(loaded, edit)):
        recorded = record_run(loaded, make_design(), sites)
    np.testing.assert_array_equal(recorded.values[:, units], np.tile(values, (35, 1)))
    assert not np.allclose(recorded.values, intact.values)
    again = record_run(loaded, make_design(), sites)
    np.testing.assert_array_equal(again.values, intact.values)  # no hook stays


@pytest.mark.parametrize("architecture", ["llama", "opt", "qwen3", "mixtral"])
@pytest.mark.parametrize("kind", ["scale", "add"])
def test_one_site_is_scaled_or_moved(architecture, kind, tiny_loaded):
    loaded = tiny_loaded(architecture)
    said = np.random.default_rng(4).integers(3, 200, (7, 6)).tolist()
    operation = np.multiply if kind == "scale" else np.add
    for site in returned_sites(loaded):
        units = np.arange(0, site.width, 2)
        values = np.linspace(-2, 3, units.size).astype(np.float32)
        edit = make_edit([site], units, values, kind)
        expected = replay_run(loaded, make_design(), [site], said).values.copy()
        with applied(loaded.model, edit, editable_sites(loaded, edit)):
            changed = replay_run(loaded, make_design(), [site], said).values
        # on given text nothing before a site follows from what is done to it
        expected[:, units] = operation(expected[:, units], values)
        np.testing.assert_allclose(changed, expected, rtol=1e-5, atol=1e-5)


def test_strength_multiplies_what_is_added(tiny_loaded):
    loaded = tiny_loaded("llama")
    (site,) = [site for site in find_sites(loaded).sites if site.name == "model.layers.1"]
    edit = make_edit([site], np.arange(site.width), np.full(site.width, 0.5), "add", strength=-3.0)
    ids = torch.tensor([[5, 9, 30, 7]])
    taken = []
    handle = loaded.model.model.layers[2].register_forward_pre_hook(
        lambda module, args: taken.append(args[0].clone())
    )
    with torch.no_grad():
        loaded.model(ids)
        with applied(loaded.model, edit):
            loaded.model(ids)
        with applied(loaded.model, edit.with_strength(2)):
            loaded.model(ids)
    handle.remove()
    torch.testing.assert_close(taken[1], taken[0] - 1.5)
    torch.testing.assert_close(taken[2], taken[0] + 1.0)
    with pytest.raises(UsageError, match="strength is None; expected a finite number"):
        edit.with_strength(None)


@pytest.mark.parametrize("architecture", ["llama", "opt", "mixtral", "mamba", "qwen3"])
def test_resampled_rows_follow_the_position_in_the_text(architecture, tiny_loaded):
    loaded = tiny_loaded(architecture)
    sites = find_sites(loaded).sites[2:5]
    units = some_units(sites, each=3)
    rows = np.random.default_rng(2).normal(size=(7, units.size)).astype(np.float32)
    edit = make_edit(sites, units, rows, method="resample")
    with applied(loaded.model, edit, editable_sites(loaded, edit)):
        recorded = record_run(loaded, make_design(), sites, batch_size=3)
        answers = [part.token_id.tolist() for _, part in recorded.tokens.groupby("trial")]
        replayed = replay_run(loaded, make_design(), sites, answers, batch_size=2)
    tokens = recorded.tokens[recorded.tokens["volume"].notna()]
    position = (tokens["prompt_tokens"] + tokens["position"] - 1).to_numpy(dtype=int)
    np.testing.assert_array_equal(recorded.values[:, units], rows[position % 7])
    np.testing.assert_allclose(replayed.values, recorded.values, rtol=2e-4, atol=1e-4)


def test_a_model_of_transformers_alone(tiny_loaded):
    loaded = tiny_loaded("llama")
    sites = [site for site in find_sites(loaded).sites if site.role == "mlp.act_fn"]
    edit = make_edit(sites, [0, 41, 85], [0.0, 0.0, 0.0])
    ids = torch.tensor([[5, 9, 30, 7], [4, 4, 9, 2]])
    with torch.no_grad(), applied(loaded.model, edit):
        lesioned = loaded.model(ids).logits
    saved = [p.clone() for p in loaded.model.parameters()]
    with torch.no_grad():
        for layer, unit in ((0, 0), (1, 1), (2, 5)):
            loaded.model.model.layers[layer].mlp.down_proj.weight[:, unit] = 0
        expected = loaded.model(ids).logits
        for parameter, before in zip(loaded.model.parameters(), saved, strict=True):
            parameter.copy_(before)
    torch.testing.assert_close(lesioned, expected)


def test_gradients_pass_an_edit(tiny_loaded):
    loaded = tiny_loaded("llama")
    (site,) = [site for site in find_sites(loaded).sites if site.name == "model.layers.1"]
    edit = make_edit([site], [3, 5], [0.5, 0.2])
    embedded = loaded.model.get_input_embeddings()(torch.tensor([[5, 9, 7]])).requires_grad_()
    with applied(loaded.model, edit):
        loaded.model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad is not None and embedded.grad.abs().max() > 0


def test_sites_that_cannot_be_edited(tiny_loaded):
    loaded = tiny_loaded("mixtral")
    skipped, reason = next(
        (name, reason) for name, reason in find_sites(loaded).skipped if "expert" in reason
    )
    for name, why in ((skipped, reason), ("model.layers.9.mlp", "no module of this name")):
        edit = make_edit([Site(name=name, layer=0, role="x", width=4)], [1], [0.0])
        with pytest.raises(InterventionError, match=f"cannot be edited: .*{why}"):
            editable_sites(loaded, edit)
    wide = make_edit([replace(find_sites(loaded).sites[0], width=9)], [1], [0.0])
    with pytest.raises(InterventionError, match=r"units in tiny-mixtral, expected 9: .* another"):
        editable_sites(loaded, wide)


def test_an_edit_is_one_file(tmp_path):
    sites = [
        Site(name="model.layers.0.mlp.act_fn", layer=0, role="mlp.act_fn", width=40),
        Site(name="model.norm", layer=None, role="model.norm", width=24),
    ]
    rows = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    edit = make_edit(sites, [41, 7, 3, 60], rows, made_from={"prompts": ("b", "a")})
    read = load_edit(edit.save(tmp_path / "made" / "edit.json"))
    assert read.metadata() == edit.metadata()
    assert [part.units.tolist() for part in read.parts] == [[3, 7], [1, 20]]
    np.testing.assert_array_equal(read.parts[0].values, rows[:, [2, 1]])
    assert read.sites == edit.sites and read.prompts == {"a", "b"} and read.n_units == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Kind": "cut"}, "kind 'cut'; expected set, scale, add"),
        ({"Label": "a_b"}, "label 'a_b'.*letters and digits"),
        ({"Strength": 2}, "strength 2 of kind 'set'"),
        ({"Strength": None}, "strength None; expected a finite number"),
        ({"Label": None}, "Label is None"),
        ({"Prompts": "tea"}, "Prompts is 'tea'"),
        ({"Version": 99}, "version 99"),
        ({"Sites": []}, "no unit"),
        ({"Units": [1, 1]}, "named twice"),
        ({"Units": [1, 40]}, "units 1 to 40; the site has 0 to 39"),
        ({"Units": [1, 2.5]}, "2.5 is no whole number"),
        ({"Values": [1.0]}, "values of shape \\(1,\\) for 2 units"),
        ({"Values": [1.0, float("nan")]}, "unit 2: a value is not finite"),
        ({"Values": None}, "values of shape"),
        ({"Values": "much"}, "cannot be read as an edit"),
        ({"Label": None}, r"cannot be read as an edit \(Label is None\)"),
        ({"Prompts": "p1"}, r"cannot be read as an edit \(Prompts is 'p1'\)"),
    ],
)
def test_damaged_files(change, message, tmp_path):
    import json

    site = Site(name="model.layers.0.mlp.act_fn", layer=0, role="mlp.act_fn", width=40)
    file = make_edit([site], [1, 2], [0.0, 1.0]).save(tmp_path / "edit.json")
    content = json.loads(file.read_text())
    for key, value in change.items():
        (content["Sites"][0] if key in ("Units", "Values") else content)[key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(InterventionError, match=message) as raised:
        load_edit(file)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize("batching", ["padded", "equal", "single"])
def test_likelihood_is_that_of_each_text_alone(batching, tiny_loaded):
    loaded = replace(tiny_loaded("llama"), batching=batching)
    texts = [[5, 9, 30, 7], [4, 4], [8, 9, 10, 11, 12, 13], [7, 30, 2]]
    measured = text_nll(loaded, texts, batch_size=3)
    for text, nll in zip(texts, measured, strict=True):
        ids = torch.tensor([text])
        with torch.no_grad():
            logits = loaded.model(ids).logits[0, :-1]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        np.testing.assert_allclose(nll, expected.numpy(), atol=1e-4)


def test_magnitude_leaves_the_first_token_out(tiny_loaded):
    loaded = tiny_loaded("llama")
    sites = find_sites(loaded).sites[3:6]
    texts = [[5, 9, 30, 7], [4, 4], [8, 9, 10, 11, 12, 13]]
    measured = mean_activation(loaded, texts, sites, of=np.abs)
    taken = {site.name: [] for site in sites}
    for site in sites:
        module = loaded.model.get_submodule(site.name)
        handle = module.register_forward_hook(
            lambda m, a, out, name=site.name: taken[name].append(out[0, 1:].abs())
        )
        with torch.no_grad():
            for text in texts:
                loaded.model(torch.tensor([text]))
        handle.remove()
    expected = np.concatenate([torch.cat(taken[site.name]).mean(0).numpy() for site in sites])
    np.testing.assert_allclose(measured, expected, rtol=1e-4)


def test_what_is_no_number_is_named_by_its_token(tiny_loaded):
    loaded = tiny_loaded("opt")
    (site,) = [site for site in find_sites(loaded).sites if site.name == "model.decoder.layers.1"]
    edit = make_edit([site], np.arange(24), np.ones(24), "add", strength=3e38)
    with (
        applied(loaded.model, edit),
        pytest.raises(InterventionError, match=r"prompt q1: .*token 1 \(.*lower the strength"),
    ):
        text_nll(loaded, [[5, 9, 30]], names=["prompt q1"])
    with pytest.raises(InterventionError, match="1 token; expected two or more"):
        text_nll(loaded, [[5]])


def test_part_of_another_shape_is_refused():
    site = Site(name="m", layer=None, role="m", width=5)
    with pytest.raises(InterventionError, match="no row of values"):
        make_edit([site], [1], np.empty((0, 1)))
    with pytest.raises(InterventionError, match="one for each"):
        Edit(
            kind="add",
            method="x",
            label="x",
            parts=(
                SiteEdit(site=site, units=np.array([1]), values=np.ones((2, 1), dtype=np.float32)),
            ),
            model_name="",
            weights_sha256="",
            space_label="",
            fingerprint="",
        )
