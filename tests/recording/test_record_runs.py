"""What is recorded is what the model computes on the finished text."""

import numpy as np
import pandas as pd
import pytest
import torch

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.model.exactness import exact_sites
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.paradigm.task import Sampling
from llm2bids.recording import batches
from llm2bids.recording.batches import DEFAULT_BATCH_SIZE, LARGEST
from llm2bids.recording.record import group_runs, record_run, record_runs
from tests.plain import plain_values
from tests.tiny_models import save_architecture, save_tiny_model

ARCHITECTURES = (
    "llama",
    "opt",
    "gpt2",
    "gpt_neox",
    "qwen3",
    "gemma",
    "mamba",
    "mixtral",
    "qwen3_moe",
)


def plain_forward(loaded, token_ids, sites):
    """Outputs of every site at every position of one text: no padding, no cache, no generate."""
    with torch.no_grad():
        logits = loaded.model(torch.tensor([token_ids]), use_cache=False).logits[0]
    return plain_values(loaded.model, token_ids, sites), logits.double()


def assert_equals_plain_forward(loaded, recording, sites, *, first):
    """Compare values, surprisal and entropy of each trial with a plain forward pass."""
    values = recording.values.reshape(len(recording.design.trials), -1, recording.values.shape[1])
    for index, trial in enumerate(recording.design.trials):
        rows = recording.tokens[recording.tokens.trial == index]
        prompt = loaded.tokenizer(trial.prompt.text)["input_ids"]
        text = [*prompt, *rows.token_id]
        expected, logits = plain_forward(loaded, text, sites)
        producing = np.arange(len(prompt) - 1, len(text) - 1)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            values[index], expected[producing[first:]], rtol=2e-4, atol=1e-5 * scale
        )
        log_p = torch.log_softmax(logits[producing], dim=-1) / np.log(2)
        token_ids = torch.tensor(rows.token_id.to_numpy())
        np.testing.assert_allclose(
            rows.surprisal, -log_p.gather(1, token_ids[:, None])[:, 0], rtol=1e-3, atol=1e-3
        )
        entropy = -(log_p.exp2() * log_p).sum(dim=1)
        np.testing.assert_allclose(rows.entropy, entropy, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("keep_first", [False, True])
def test_values_equal_a_plain_forward_pass(architecture, keep_first, tiny_loaded, design_of):
    loaded = tiny_loaded(architecture)
    table = find_sites(loaded)
    sites = (*table.sites, *table.head)
    design = design_of()
    recording = record_run(loaded, design, sites, keep_first=keep_first, batch_size=4)
    assert recording.values.shape == (design.n_volumes, sum(site.width for site in sites))
    assert recording.values.dtype == np.float32
    assert_equals_plain_forward(loaded, recording, sites, first=0 if keep_first else 1)


@pytest.mark.slow
def test_galactica_125m_shape(tmp_path, own_cache, design_of):
    """The smallest Galactica with random weights.

    Taylor et al. 2022 (arXiv:2211.09085), section 3 and table 2: 12 layers, 768 wide, 12 heads,
    feed-forward 4 x 768, learned positions, context 2,048, vocabulary 50,000, GELU, no biases.
    """
    folder = save_architecture("opt-galactica-125m", tmp_path / "galactica-125m")
    loaded = load_model(folder, device="cpu")
    sites = find_sites(loaded).sites
    per_layer = 8 * 768 + 2 * 3072  # two norms, q, k, v, out, fc2, residual; fc1, gelu
    assert sum(site.width for site in sites) == 12 * per_layer + 3 * 768
    assert (loaded.max_length, loaded.label) == (2048, "galactica125m")
    recording = record_run(loaded, design_of(tokens_per_prompt=3), sites)
    assert_equals_plain_forward(loaded, recording, sites, first=1)


@pytest.fixture
def llama(tiny_loaded):
    return tiny_loaded("llama")


@pytest.fixture
def sites(llama):
    return select_sites(find_sites(llama), ["mlp", "residual"])


def test_tokens_do_not_depend_on_the_batch_size(llama, sites, design_of):
    whole = record_run(llama, design_of(), sites)
    for batch_size in (1, 3):
        split = record_run(llama, design_of(), sites, batch_size=batch_size)
        assert split.tokens.token_id.tolist() == whole.tokens.token_id.tolist()
        np.testing.assert_allclose(split.values, whole.values, rtol=1e-4, atol=1e-4)


def test_runs_that_are_recorded_together_are_the_runs_alone(llama, sites, design_of):
    designs = [design_of(), design_of(seed=12), design_of(texts=("One",), seed=13)]
    seen = []
    together = record_runs(llama, designs, sites, batch_size=5, on_token=seen.append)
    assert sum(seen) == sum(design.n_volumes for design in designs)
    for design, one in zip(designs, together, strict=True):
        alone = record_run(llama, design, sites)
        pd.testing.assert_frame_equal(one.tokens, alone.tokens, rtol=1e-4)
        np.testing.assert_allclose(one.values, alone.values, rtol=1e-4, atol=1e-4)
        assert one.design is design
        assert one.provenance["seed"] == design.seed
        assert one.provenance["n_tokens"] == alone.provenance["n_tokens"]
        assert one.provenance["batch_size"] == 5


def test_runs_fill_a_batch_and_carried_ones_are_alone(design_of):
    designs = [design_of(seed=seed) for seed in range(5)]
    n_prompts = len(designs[0].trials)
    assert [len(group) for group in group_runs(designs, batch_size=2 * n_prompts)] == [2, 2, 1]
    assert [len(group) for group in group_runs(designs, batch_size=2 * n_prompts - 1)] == [1] * 5
    assert [len(group) for group in group_runs(designs, batch_size=1)] == [1] * 5
    assert sum(group_runs(designs, batch_size=2 * n_prompts), ()) == tuple(designs)
    assert group_runs(designs) == [(design,) for design in designs]
    per_prompt = 4 * designs[0].tokens_per_prompt  # bytes of a unit
    fit_two = LARGEST // (per_prompt * 2 * n_prompts)
    together = [group_runs(designs, n_units=n) for n in (fit_two, fit_two + 1, 10 * fit_two, 1)]
    assert [[len(group) for group in groups] for groups in together] == [
        [2, 2, 1], [1] * 5, [1] * 5, [min(DEFAULT_BATCH_SIZE // n_prompts, 5)]
    ]  # fmt: skip
    with pytest.raises(UsageError, match="batch size 0: expected 1 or more"):
        group_runs(designs, batch_size=0)
    carried = [design_of(context="carry", seed=seed) for seed in range(2)]
    assert [len(group) for group in group_runs(carried, batch_size=100)] == [1, 1]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_differs(llama, sites, design_of):
    first, again = (record_run(llama, design_of(), sites) for _ in range(2))
    assert first.values.tobytes() == again.values.tobytes()
    pd.testing.assert_frame_equal(first.tokens, again.tokens)
    other = record_run(llama, design_of(seed=12), sites)
    assert other.tokens.token_id.tolist() != first.tokens.token_id.tolist()


def test_global_random_state_is_neither_used_nor_changed(llama, sites, design_of):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = record_run(llama, design_of(), sites)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = record_run(llama, design_of(), sites)
    assert first.tokens.token_id.tolist() == again.tokens.token_id.tolist()


@pytest.mark.parametrize(("keep_first", "n_tokens"), [(False, 6), (True, 5)])
def test_token_table(llama, sites, design_of, keep_first, n_tokens):
    design = design_of()
    recording = record_run(llama, design, sites, keep_first=keep_first)
    tokens = recording.tokens
    assert list(tokens.columns) == [
        "volume",
        "trial",
        "block",
        "trial_type",
        "prompt_id",
        "position",
        "token_id",
        "token",
        "surprisal",
        "entropy",
        "prompt_tokens",
    ]
    assert len(tokens) == len(design.trials) * n_tokens
    assert tokens.volume.dropna().tolist() == list(range(design.n_volumes))
    assert tokens.volume.isna().sum() == (0 if keep_first else len(design.trials))
    assert tokens.position.tolist() == list(range(n_tokens)) * len(design.trials)
    assert tokens[tokens.prompt_id == "p4"].trial_type.unique().tolist() == ["fossils"]
    assert tokens[tokens.prompt_id == "p0"].trial_type.isna().all()
    assert tokens[tokens.trial == 1].prompt_tokens.iloc[0] == len(
        llama.tokenizer(design.trials[1].prompt.text)["input_ids"]
    )
    assert tokens.token[0] == llama.tokenizer.decode([tokens.token_id[0]])
    assert (tokens.surprisal >= 0).all() and (tokens.entropy > 0).all()


def test_provenance_says_how(llama, sites, design_of):
    said = record_run(llama, design_of(), sites, batch_size=3).provenance
    assert said["method"] == "record"
    assert said["batch_size"] == 3
    assert said["keep_first"] is False
    assert said["seed"] == 11
    assert said["dtype"] == "float32"
    assert said["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert said["n_tokens"] == 7 * 6


def test_end_of_text_and_unknown_tokens_never_come(llama, sites, design_of):
    design = design_of(tokens_per_prompt=40, sampling=Sampling(temperature=50.0))
    tokens = record_run(llama, design, sites[:1]).tokens
    assert 2 not in tokens.token_id.tolist()
    assert tokens.token_id.max() < len(llama.tokenizer)
    assert tokens.token_id.nunique() > 100


def test_greedy_takes_the_most_probable_token(llama, sites, design_of):
    design = design_of(sampling=Sampling(do_sample=False), texts=["The fossil of a"])
    tokens = record_run(llama, design, sites).tokens
    text = llama.tokenizer("The fossil of a")["input_ids"]
    for token in tokens.token_id:
        logits = llama.model(torch.tensor([text])).logits[0, -1]
        logits[2] = -torch.inf
        assert int(logits[: len(llama.tokenizer)].argmax()) == token
        text.append(token)


def test_carried_context_is_one_text(llama, design_of):
    sites = find_sites(llama).sites
    design = design_of(texts=("The", "A scan of", "x y"), context="carry", tokens_per_prompt=4)
    seen = []
    recording = record_run(llama, design, sites, on_token=seen.append)
    assert sum(seen) == design.n_volumes
    text: list[int] = []
    for index, trial in enumerate(design.trials):
        lead = "\n\n" if text else ""
        text += llama.tokenizer(lead + trial.prompt.text)["input_ids"]
        rows = recording.tokens[recording.tokens.trial == index]
        assert rows.prompt_tokens.iloc[0] == len(text)
        expected, _ = plain_forward(llama, [*text, *rows.token_id], sites)
        np.testing.assert_allclose(
            recording.values[index * 4 : index * 4 + 4],
            expected[len(text) : len(text) + 4],
            rtol=2e-4,
            atol=1e-4,
        )
        text += rows.token_id.tolist()


def test_carried_context_that_grows_too_long_is_an_error(llama, sites, design_of):
    design = design_of(context="carry", tokens_per_prompt=20)
    with pytest.raises(RecordingError, match=r"prompt p\d \(trial \d, carried\).*128 tokens"):
        record_run(llama, design, sites)


def test_prompt_longer_than_the_context(llama, sites, design_of):
    design = design_of(texts=("The", "bread " * 200))
    with pytest.raises(RecordingError, match=r"prompt p1: \d+ tokens and 6 to generate exceed"):
        record_run(llama, design, sites)


def test_prompt_without_a_token(llama, sites, design_of):
    with pytest.raises(RecordingError, match="prompt p0: text '': no token"):
        record_run(llama, design_of(texts=("",)), sites)


def test_batch_size_below_one(llama, sites, design_of):
    with pytest.raises(UsageError, match="batch size 0"):
        record_run(llama, design_of(), sites, batch_size=0)


def test_values_can_be_written_to_a_given_array(llama, sites, design_of):
    first = record_run(llama, design_of(), sites)
    kept = first.values.copy()
    other = record_run(llama, design_of(seed=12), sites, out=first.values)
    assert np.shares_memory(other.values, first.values)
    assert not np.array_equal(other.values, kept)
    again = record_run(llama, design_of(), sites, out=other.values)
    np.testing.assert_array_equal(again.values, kept)


def test_values_that_are_not_finite_stop_the_run(tiny_model_dir, sites, design_of, monkeypatch):
    loaded = load_model(tiny_model_dir("llama"), device="cpu")
    weight = loaded.model.get_submodule("model.layers.1.mlp.up_proj").weight
    with torch.no_grad():
        weight[3] = torch.nan
    with pytest.raises(
        RecordingError,
        match=r"module model.layers.1.mlp.up_proj, unit 3: value nan at prompt p0, generated "
        r"token 1 .*--dtype float32",
    ):
        record_run(loaded, design_of(), sites)


def test_hooks_are_gone_after_a_run_and_after_an_error(llama, sites, design_of):
    def stop(n_volumes):
        raise KeyboardInterrupt

    before = [tuple(module._forward_hooks) for module in llama.model.modules()]
    record_run(llama, design_of(), sites)
    with pytest.raises(KeyboardInterrupt):
        record_run(llama, design_of(), sites, on_token=stop)
    assert [tuple(module._forward_hooks) for module in llama.model.modules()] == before


def test_memory_error_halves_the_batch(llama, sites, design_of, monkeypatch):
    """A model too large for three prompts: the third of a batch raises what the CPU raises."""
    whole = record_run(llama, design_of(), sites)
    embed = llama.model.get_input_embeddings()

    def full(module, args):
        if args[0].shape[0] > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    handle = embed.register_forward_pre_hook(full)
    seen = []
    try:
        halved = record_run(llama, design_of(), sites, batch_size=7, on_token=seen.append)
    finally:
        handle.remove()
    assert halved.provenance["batch_size"] == 1
    assert sum(seen) == halved.design.n_volumes
    assert halved.tokens.token_id.tolist() == whole.tokens.token_id.tolist()


def test_memory_error_of_a_single_prompt(llama, sites, design_of):
    def full(module, args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = llama.model.get_input_embeddings().register_forward_pre_hook(full)
    try:
        with pytest.raises(RecordingError, match=r"not suffice even for one prompt.*--dtype"):
            record_run(llama, design_of(), sites)
    finally:
        handle.remove()


def test_progress_is_taken_back_when_a_batch_fails():
    told = []
    failed = []

    def work(part, tell):
        tell(part.stop - part.start)
        if part.stop - part.start > 2:
            failed.append(part)
            raise MemoryError("full")
        return part

    done = list(batches.in_batches(7, work, batch_size=5, on_token=told.append))
    assert (sum(told), len(failed)) == (7, 1)
    assert done == [(2, slice(0, 2)), (2, slice(2, 4)), (2, slice(4, 6)), (2, slice(6, 7))]


def test_large_but_finite_values_pass():
    values = np.full((1, 1, 4), np.finfo(np.float32).max, dtype=np.float32)
    batches.check_finite(values, (), ["p0"], 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_widened(tiny_model_dir, design_of, dtype):
    loaded = load_model(tiny_model_dir("gpt2"), device="cpu", dtype=dtype)
    sites = find_sites(loaded).sites
    recording = record_run(loaded, design_of(), sites)
    assert loaded.dtype == dtype
    assert recording.values.dtype == np.float32
    narrow = torch.from_numpy(recording.values).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(narrow, recording.values)


def test_a_tokenizer_larger_than_the_vocabulary_is_said(tmp_path, design_of):
    """Prompts that the model knows are recorded; one that it does not know is refused by name."""
    folder = save_tiny_model("llama", tmp_path / "llama", vocab_size=260, eos_token_id=259)
    loaded, table, _ = exact_sites(load_model(folder, device="cpu"))
    known = design_of(["x", "qx7"])
    assert record_run(loaded, known, table.sites).tokens["token_id"].max() < 260
    with pytest.raises(RecordingError, match=r"prompt p1: token id \d+; llama knows 0 to 259: its"):
        record_run(loaded, design_of(["x", "The senate of the old republic"]), table.sites)
