"""Reading outputs under hooks."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from llm2bids.exceptions import ModelError
from llm2bids.model import generate
from llm2bids.model.hooks import (
    StepReader,
    by_token,
    first_tensor,
    hooked,
    new_values,
    position_reader,
    required_tensor,
)
from llm2bids.model.sites import find_sites
from llm2bids.model.units import Site
from llm2bids.paradigm.task import Sampling
from llm2bids.recording.record import record_run
from tests.synthetic import make_design


class Toy(nn.Module):
    """Outputs of every kind: plain, changed in place afterwards, flattened, by head, a tuple."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Linear(6, 6)
        self.spoiled = nn.Linear(6, 6)
        self.flat = nn.Linear(6, 4)
        self.heads = Heads()

    def forward(self, x):
        y = self.plain(x)
        z = self.spoiled(y)
        kept = z.clone()
        z += 100
        return y, kept, self.flat(x.flatten(0, 1)), self.heads(x)[0]


class Heads(nn.Module):
    def forward(self, x):
        return x.unflatten(2, (2, 3)).transpose(1, 2) * 2, None


SITES = (
    Site(name="plain", layer=None, role="plain", width=6),
    Site(name="spoiled", layer=None, role="spoiled", width=6),
    Site(name="flat", layer=None, role="flat", width=4, token_axis=0),
    Site(name="heads", layer=None, role="heads", width=6, token_axis=2),
)


def expected(model, x):
    """Values by prompt, token, unit."""
    y, kept, flat, heads = model(x)
    parts = [y, kept, flat.unflatten(0, x.shape[:2]), heads.transpose(1, 2).flatten(2)]
    return torch.cat(parts, dim=2).detach().numpy()


@pytest.fixture
def toy():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Toy()


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("n_tokens", [1, 5])
def test_last_position_of_every_step(toy, deferred, n_tokens):
    values = np.full((3, 4, 22), np.nan, dtype=np.float32)
    reader = StepReader(SITES, values, device="cpu", deferred=deferred)
    texts = torch.arange(3 * n_tokens * 6.0).reshape(3, n_tokens, 6) / 50
    with hooked(toy, SITES, reader.hook), torch.no_grad():
        reader.open(None)
        toy(texts + 9)
        for step in (0, 1, 2):
            reader.open(step)
            toy(texts + step)
            reader.close(step)
        reader.wait()
    for step in (0, 1, 2):
        np.testing.assert_allclose(values[:, step], expected(toy, texts + step)[:, -1], rtol=1e-6)
    assert np.isnan(values[:, 3]).all()


def test_chosen_positions(toy):
    texts = torch.arange(3 * 5 * 6.0).reshape(3, 5, 6) / 50
    positions = np.array([[0, 1], [3, 4], [2, 3]])
    values = np.empty((3, 2, 22), dtype=np.float32)
    reader = position_reader(SITES, values, positions, device="cpu")
    with hooked(toy, SITES, reader), torch.no_grad():
        toy(texts)
    whole = expected(toy, texts)
    for prompt, chosen in enumerate(positions):
        np.testing.assert_allclose(values[prompt], whole[prompt, chosen], rtol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "opt", "gpt2", "mixtral", "mamba"])
def test_reading_late_gives_the_same_bytes(architecture, tiny_loaded, monkeypatch):
    """What a GPU does, on the CPU."""
    loaded = tiny_loaded(architecture)
    sites = find_sites(loaded).sites
    results = []
    for deferred in (False, True):
        monkeypatch.setattr(generate, "StepReader", partial(StepReader, deferred=deferred))
        for first_step in (0, 1):
            _, values = generate.generate_batch(
                loaded,
                [[5, 6, 7], [8]],
                sites,
                sampling=Sampling(),
                uniforms=np.random.default_rng(0).random((2, 4)),
                first_step=first_step,
            )
            results.append(values)
    assert results[0].tobytes() == results[2].tobytes()
    assert results[1].tobytes() == results[3].tobytes()
    np.testing.assert_array_equal(results[0][:, 1:], results[1])


def test_hooks_are_gone_after_an_error(toy):
    with pytest.raises(ZeroDivisionError), hooked(toy, SITES, lambda index: print):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in toy.modules())


def test_unknown_module_leaves_no_hook(toy):
    sites = (*SITES, Site(name="gone", layer=None, role="gone", width=1))
    with (
        pytest.raises(ModelError, match="site gone: the model has no module of this name"),
        hooked(toy, sites, lambda index: print),
    ):
        pass
    assert not any(module._forward_hooks for module in toy.modules())


def test_a_hook_can_replace_an_output(toy):
    x = torch.ones(1, 1, 6)

    def zero(index):
        return lambda module, args, output: torch.zeros_like(output)

    with hooked(toy, SITES[:1], zero):
        assert not toy(x)[0].any()
    assert toy(x)[0].any()


def test_first_tensor():
    from transformers.modeling_outputs import BaseModelOutput

    tensor = torch.ones(2)
    assert first_tensor(tensor) is tensor
    assert first_tensor((None, tensor)) is tensor
    assert first_tensor(BaseModelOutput(last_hidden_state=tensor)) is tensor
    assert first_tensor(None) is first_tensor((1, "a")) is None
    with pytest.raises(ModelError, match="site plain: its module returned NoneType"):
        required_tensor(None, SITES[0])


def test_one_table_for_all_prompts_is_repeated():
    table = torch.arange(8.0).reshape(1, 4, 2)
    site = Site(name="positions", layer=None, role="positions", width=2)
    assert by_token(table, site, 3).shape == (3, 4, 2)


def test_new_values_of_the_cpu():
    values = new_values((2, 3, 5), "cpu")
    assert values.shape == (2, 3, 5)
    assert values.dtype == np.float32


def test_nothing_to_record_is_sent_off_from_no_device():
    reader = StepReader((), np.zeros((3, 1, 0), dtype=np.float32), device="cpu", deferred=True)
    reader.open(0)
    reader.close(0)
    reader.wait()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_a_heads_input_in_one_piece_changes_no_token(architecture, tiny_loaded, monkeypatch):

    loaded = tiny_loaded(architecture)
    table = find_sites(loaded)
    head, pieces = loaded.model.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda _, args, out: pieces.append(args[0].is_contiguous()))
    design = make_design()
    own = record_run(loaded, design, table.sites)
    assert all(pieces)
    assert not head._forward_pre_hooks
    monkeypatch.setattr(generate, "contiguous_head", lambda model: nullcontext())
    pieces.clear()
    plain = record_run(loaded, design, table.sites)
    handle.remove()
    assert not all(pieces)
    assert own.tokens["token_id"].tolist() == plain.tokens["token_id"].tolist()
    np.testing.assert_array_equal(own.values, plain.values)
