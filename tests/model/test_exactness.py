"""Recorded values are those of plain hooks on a plain forward pass, whatever the architecture."""

import json
from functools import cache

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from llm2bids.exceptions import ModelError, RecordingError
from llm2bids.model.exactness import exact_sites
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_layers, find_sites, select_sites
from llm2bids.recording.record import record_run, replay_run
from tests.plain import site_errors
from tests.synthetic import PROMPTS, make_design
from tests.tiny_models import save_architecture, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of old architectures


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Load a model of some architecture and check it, once."""

    @cache
    def check(name, **changes):
        folder = save_architecture(name, tmp_path_factory.mktemp("models") / name, **changes)
        return exact_sites(load_model(folder, device="cpu"))

    return check


@pytest.mark.parametrize(
    ("name", "batching"),
    [
        ("recurrent_gemma", "equal"),
        ("minimax", "equal"),
        ("rwkv", "single"),
        ("bart", "equal"),
        ("mixtral-top1", "padded"),
        ("bert", "padded"),
        ("roberta", "padded"),
        ("camembert", "padded"),
        ("gemma3n_text", "padded"),
        ("qwen3_next", "padded"),
    ],
)
def test_every_value_is_that_of_a_plain_forward_pass(name, batching, checked):
    loaded, table, exactness = checked(name)
    assert loaded.batching == exactness.batching == batching
    design = make_design([text for text in PROMPTS if len(text) > 3])
    recording = record_run(loaded, design, table.sites)
    answers = recording.tokens.groupby("trial")["token_id"].apply(list).tolist()
    assert site_errors(loaded, table.sites, recording).max() < 1e-3
    replayed = replay_run(loaded, design, table.sites, answers)
    assert site_errors(loaded, table.sites, replayed).max() < 1e-3


@pytest.mark.parametrize("name", ["recurrent_gemma", "rwkv", "mixtral-top1"])
def test_tokens_are_those_of_each_prompt_alone(name, checked):
    loaded, table, _ = checked(name)
    design = make_design([text for text in PROMPTS if len(text) > 3])
    together, alone = (
        record_run(loaded, design, table.sites[:1], batch_size=size).tokens["token_id"]
        for size in (5, 1)
    )
    assert together.tolist() == alone.tolist()


def test_a_prompt_of_one_token_is_refused_where_it_goes_on_from_the_last_text(checked):
    loaded, table, _ = checked("recurrent_gemma")
    with pytest.raises(RecordingError, match="prompt p0: 1 token; recurrent_gemma goes on from"):
        record_run(loaded, make_design(), table.sites[:1])
    assert checked("rwkv")[0].shortest_prompt == checked("minimax")[0].shortest_prompt == 1


def test_rows_that_are_sorted_by_expert_are_left_out(checked):
    _, table, exactness = checked("mixtral-top1")
    skipped = dict(table.skipped)
    assert "model.layers.0.mlp.experts.act_fn" in skipped
    assert "model.layers.0.mlp.experts" in {site.name for site in table.sites}
    assert max(exactness.errors.values()) < 1e-4


def test_a_bidirectional_model_is_refused(checked):
    with pytest.raises(ModelError, match="not causal: what it computes at a token changes"):
        checked("xlnet")


def test_roberta_counts_positions_from_its_padding_token(checked):
    loaded, _, exactness = checked("roberta")
    padding = loaded.model.config.pad_token_id
    assert max(exactness.errors.values()) < 1e-4
    assert loaded.max_length == loaded.model.config.max_position_embeddings - padding - 1
    assert padding in loaded.end_token_ids  # never chosen: it would not be counted


def test_positions_that_differ_in_generation_are_refused(checked):
    loaded, _, _ = checked("roberta")
    hooks = loaded.model.roberta.embeddings._forward_pre_hooks
    kept = dict(hooks)
    hooks.clear()
    try:
        with pytest.raises(ModelError, match="token by token, with its cache, is not what a plain"):
            exact_sites(loaded)
    finally:
        hooks.update(kept)


def test_what_a_forward_pass_raises_is_one_message(checked):
    with pytest.raises(
        ModelError, match=r"module backbone\.blocks\.0\.\S+ \(xLSTMBackend\) raised ValueError"
    ):
        checked("xlstm")


def test_what_a_run_raises_names_the_module(tiny_model_dir):
    loaded, table, _ = exact_sites(load_model(tiny_model_dir("llama"), device="cpu"))

    def fail(module, args, output):
        raise ZeroDivisionError("at last")

    handle = loaded.model.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp \(LlamaMLP\) raised ZeroDiv"):
        record_run(loaded, make_design(), table.sites)
    handle.remove()
    record_run(loaded, make_design(), table.sites)


def test_gemma3n_records_its_four_streams(checked):
    _, table, _ = checked("gemma3n_text")
    residual = [site for site in table.sites if site.role == "residual"]
    assert [site.width for site in residual] == [4 * 32] * 4


def test_an_axis_of_two_streams_is_not_taken_for_prompts(checked):
    _, table, _ = checked("gemma3n_text", altup_num_inputs=2)
    assert {site.width for site in table.sites if site.role == "residual"} == {2 * 32}


@pytest.mark.parametrize("streams", [3, 5, 7])
def test_no_number_of_streams_is_taken_for_prompts(streams, checked):
    _, table, _ = checked("gemma3n_text", altup_num_inputs=streams)
    assert {site.width for site in table.sites if site.role == "residual"} == {streams * 32}


def test_nothing_is_left_out_of_a_right_model(tiny_loaded):
    loaded, table, exactness = exact_sites(tiny_loaded("llama"))
    assert table == find_sites(loaded)
    assert exactness.batching == "padded"
    metadata = json.loads(json.dumps(exactness.metadata()))
    assert metadata["LargestError"]["residual"] < 1e-5
    assert metadata["PromptLengths"] == [[3, 5, 8, 13, 21]]
    assert metadata["LeftOut"] == metadata["RefusedBatching"] == {}


def test_a_model_without_a_residual_stream_says_so(checked, caplog):
    with caplog.at_level("INFO", logger="llm2bids"):
        _, table, exactness = checked("hrm_text")
    assert "residual" not in exactness.errors
    assert "the residual stream, cannot be recorded" in caplog.text
    with pytest.raises(ModelError, match=r"'residual' matches only modules that cannot .*called"):
        select_sites(table, ["residual"])


def test_too_little_memory_is_one_message(tiny_model_dir):
    loaded = load_model(tiny_model_dir("llama"), device="cpu")

    def fail(module, args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    loaded.model.model.register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match="memory does not suffice for a few short prompts"):
        exact_sites(loaded)


@pytest.mark.parametrize("kind", ["gemma3", "llava", "mistral3"])
def test_the_layers_are_the_language_models_and_not_the_towers(kind):
    """A tower for images as deep as the language model, and with more weights."""
    config = tiny_config(kind)
    config.vision_config.hidden_size = 8 * config.get_text_config().hidden_size
    config.vision_config.num_hidden_layers = config.get_text_config().num_hidden_layers
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert find_layers(model)[0] == "model.language_model.layers"


class _Aside(nn.Module):
    """A module of a model, and one beside it whose output nobody uses."""

    def __init__(self, inner, aside):
        super().__init__()
        self.inner, self.aside = inner, aside

    def forward(self, x):
        self.aside(x)
        return self.inner(x)


class _SortedRows(nn.Module):
    """Rows of all prompts in the order of their values, as experts sort theirs."""

    def forward(self, x):
        rows = x.flatten(0, 1)
        return rows[rows[:, 0].argsort()]


class _LastOfTheBatch(nn.Module):
    """Something of the longest prompt in everyone's values."""

    def forward(self, x):
        return x + x[-1:, :, :].amax()


@pytest.mark.parametrize("aside", [_SortedRows, _LastOfTheBatch])
def test_a_site_that_mixes_prompts_is_left_out_with_its_reason(aside, tiny_model_dir):
    loaded = load_model(tiny_model_dir("llama"), device="cpu")
    loaded.model.model.norm = _Aside(loaded.model.model.norm, aside())
    assert "model.norm.aside" in {site.name for site in find_sites(loaded).sites}
    loaded, table, exactness = exact_sites(loaded)
    assert loaded.batching == "padded"
    assert "model.norm.aside" not in {site.name for site in table.sites}
    assert "not what a plain forward pass gives" in dict(table.skipped)["model.norm.aside"]
    assert list(exactness.metadata()["LeftOut"]) == ["model.norm.aside"]
    assert "; 1 differ and are left out" in exactness.summary()


def test_a_model_that_mixes_prompts_runs_them_one_by_one(tiny_model_dir):
    loaded = load_model(tiny_model_dir("llama"), device="cpu")

    def mix(module, args, output):
        return output + 0.5 * (len(output) > 1) * output.std()

    loaded.model.model.layers[1].register_forward_hook(mix)
    loaded, _, exactness = exact_sites(loaded)
    assert loaded.batching == "single"
    assert set(exactness.refused) == {"padded", "equal"}


def test_a_model_that_remembers_the_last_text_is_refused(tiny_model_dir):
    loaded = load_model(tiny_model_dir("llama"), device="cpu")
    state = [0.0]

    def remember(module, args, output):
        state[0] += 1.0
        return output * (1 + state[0])

    loaded.model.model.layers[1].mlp.register_forward_hook(remember)
    with pytest.raises(ModelError, match=r"cannot be recorded truly|not causal"):
        exact_sites(loaded)
