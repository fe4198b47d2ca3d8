"""GGUF files: their cache, and what transformers would leave out of them."""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from llm2bids.exceptions import ModelError
from llm2bids.model import dequantize
from llm2bids.model.dequantize import cache_folder, dequantized_folder
from llm2bids.model.load import load_model
from llm2bids.model.outline import outline

pytestmark = pytest.mark.usefixtures("own_cache")


def folder_of(name="Model"):
    return dequantized_folder(name, "0123456789abcdef", lambda: Path("model.gguf"))


@pytest.fixture
def small(tmp_path, monkeypatch, tiny_model_dir):
    """The cache's workings with a small file in place of the dequantized model."""
    made = []

    def make(gguf: Path, folder: Path, dtype: str) -> None:
        made.append(folder)
        (folder / "config.json").write_text("{}")
        (folder / "gguf_types.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights" * 100)

    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path))
    monkeypatch.setattr(dequantize, "dequantize", make)
    monkeypatch.chdir(tmp_path)
    Path("model.gguf").write_bytes(b"GGUF")
    return made


def test_made_once(small):
    folder = folder_of()
    assert folder_of() == folder
    assert len(small) == 1
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) == [folder.name]


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "record", "empty record"])
def test_damage_is_found_and_mended(small, damage):
    folder = folder_of()
    weights = folder / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "alter":
        weights.write_bytes(b"W" + weights.read_bytes()[1:])
    elif damage == "remove":
        weights.unlink()
    elif damage == "record":
        (folder / "complete.json").write_text("{")
    else:
        (folder / "complete.json").write_text("{}")
    assert folder_of() == folder
    assert weights.read_bytes() == b"weights" * 100
    assert len(small) == 2


def test_a_whole_cache_is_read_where_it_cannot_be_locked(small):
    folder = folder_of()
    lock = folder.with_name(folder.name + ".lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # as on a file system that is read only, no lock can be had
    assert folder_of() == folder
    assert len(small) == 1


def test_copied_cache_is_accepted_by_its_hash(small):
    weights = folder_of() / "model.safetensors"
    os.utime(weights, (1, 1))
    folder_of()
    assert len(small) == 1


def test_a_failure_leaves_nothing_behind(small, monkeypatch):
    def fail(gguf: Path, folder: Path, dtype: str) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dequantize, "dequantize", fail)
    with pytest.raises(ModelError, match=r"No space left on device.*set LLM2BIDS_CACHE"):
        folder_of()
    left = [p for p in (cache_folder() / "gguf").iterdir() if p.suffix != ".lock"]
    assert left == []


def test_reader_that_lacks_a_package(small, monkeypatch):
    def fail(gguf: Path, folder: Path, dtype: str) -> None:
        raise ValueError("accelerate is required when loading a GGUF file")

    monkeypatch.setattr(dequantize, "dequantize", fail)
    with pytest.raises(ModelError, match=r"model\.gguf: transformers cannot read it .accelerate"):
        folder_of()


def test_two_processes_at_once(tmp_path):
    """Both get a whole folder; it is made once."""
    program = """
import sys, time
from pathlib import Path
from llm2bids.model import dequantize
def make(gguf, folder, dtype):
    time.sleep(0.5)
    (folder / "gguf_types.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    with open(sys.argv[1], "a") as log:
        log.write("made\\n")
dequantize.dequantize = make
dequantize.dequantized_folder("M", "0" * 64, lambda: Path(sys.argv[1]))
"""
    environment = {**os.environ, "LLM2BIDS_CACHE": str(tmp_path / "cache")}
    log = tmp_path / "log"
    log.touch()
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(log)], env=environment)
        for _ in range(2)
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert log.read_text() == "made\n"


N_WORDS, WIDTH, HEADS, HEAD_SIZE, LAYERS = 97, 32, 4, 8, 3
FACTORS = np.array([1.0, 1.5, 4.0, 8.0], dtype=np.float32)


def llama(**options):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=N_WORDS, hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=HEAD_SIZE,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        initializer_range=0.3, **options,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def interleaved(weight):
    """Order rows as llama.cpp has them: pairs that are rotated together lie side by side."""
    return weight.reshape(HEADS, 2, HEAD_SIZE // 2, -1).swapaxes(1, 2).reshape(weight.shape)


IN_A_LAYER = (
    ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"), ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj"),
)  # fmt: skip


def write_gguf(path, model, *, tensors=(), fields=()):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(40)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_vocab_size(N_WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    letters = [chr(33 + i) for i in range(N_WORDS - 5)]
    writer.add_token_list(["<pad>", "<s>", "</s>", *letters, "\u0120", "ab"])
    writer.add_token_types([3] * 3 + [1] * (N_WORDS - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in fields:
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(f"llama.{name}", value)
    named = {
        "token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm",
        **{f"blk.{i}.{o}": f"model.layers.{i}.{t}" for i in range(LAYERS) for o, t in IN_A_LAYER},
    }  # fmt: skip
    for ours, theirs in named.items():
        weight = state[f"{theirs}.weight"]
        turned = interleaved(weight) if ours.endswith(("attn_q", "attn_k")) else weight
        writer.add_tensor(f"{ours}.weight", np.ascontiguousarray(turned))
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model):
    tokens = torch.arange(3, 43)[None]
    with torch.no_grad():
        return model(tokens).logits.numpy()


@pytest.mark.parametrize("scaling", ["none", "linear", "llama3"])
def test_positions_are_scaled_as_the_file_says(tmp_path, scaling):
    model, tensors, fields = llama(), [], []
    if scaling == "linear":
        model = llama(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})
        fields = [("rope.scaling.type", "linear"), ("rope.scaling.factor", 4.0)]
    if scaling == "llama3":
        model.model.rotary_emb.inv_freq /= torch.from_numpy(FACTORS)
        tensors = [("rope_freqs.weight", FACTORS)]
    path = write_gguf(tmp_path / "M.GGUF", model, tensors=tensors, fields=fields)
    loaded = load_model(path)
    np.testing.assert_allclose(logits(loaded.model), logits(model), rtol=1e-4, atol=1e-5)
    assert (loaded.name, loaded.label) == ("M.GGUF", "M")
    assert loaded.weights_sha256 == dequantize.sha256_of(path)
    assert outline(path).sites.n_units > 0


def test_a_file_is_read_once(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "m.gguf", llama())
    parsed = []
    reader = gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda *args: parsed.append(args) or reader(*args))
    first = load_model(path)
    assert len(parsed) == 1
    second = load_model(path)
    outline(path)
    assert len(parsed) == 1
    np.testing.assert_array_equal(logits(first.model), logits(second.model))
    assert load_model(path, dtype="bfloat16").dtype == "bfloat16"


def test_a_disk_without_space_is_named_before_anything_is_written(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "m.gguf", llama())
    usage = dequantize.shutil.disk_usage(tmp_path)
    n_bytes = 4 * sum(tensor.n_elements for tensor in gguf.GGUFReader(path).tensors)
    monkeypatch.setattr(
        dequantize.shutil, "disk_usage", lambda folder: usage._replace(free=n_bytes - 1)
    )
    with pytest.raises(ModelError, match=r"m\.gguf: its weights take .* GB free; expected more"):
        load_model(path)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert load_model(path, dtype="bfloat16").dtype == "bfloat16"  # takes half


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"tensors": [("blk.0.attn_sinks.weight", np.ones(HEADS, np.float32))]}, "attn_sinks"),
        ({"tensors": [("blk.1.attn_q.bias", np.ones(WIDTH, np.float32))]}, r"attn_q\.bias"),
        ({"tensors": [("rope_factors_long.weight", FACTORS)]}, "rope_factors_long"),
        ({"fields": [("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0)]}, "type yarn"),
        ({"fields": [("final_logit_softcapping", 30.0)]}, "final_logit_softcapping"),
    ],
)
def test_what_would_be_left_out_is_refused_by_name(tmp_path, own_cache, extra, message):
    path = write_gguf(tmp_path / "m.gguf", llama(), **extra)
    with pytest.raises(ModelError, match=message):
        load_model(path)
    assert not list(own_cache.rglob("*.safetensors"))


def header(path, architecture, **entries):
    """Write a GGUF file that has a header and no tensors but one."""
    writer = gguf.GGUFWriter(str(path), architecture)
    common = {
        "context_length": 64,
        "embedding_length": 48,
        "block_count": 12,
        "feed_forward_length": 40,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "vocab_size": 331,
    }
    for name, value in (common | entries).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        add[type(value)](f"{architecture}.{name.replace('__', '.')}", value)
    writer.add_tensor("token_embd.weight", np.ones((2, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "entries", "right"),
    [
        ("starcoder2", {"rope__freq_base": 1e6}, {"rope_parameters": {"rope_theta": 1e6}}),
        ("qwen3", {"attention__key_length": 20}, {"head_dim": 20}),
        ("phi3", {"attention__sliding_window": 37}, {"sliding_window": 37}),
        ("nemotron", {"attention__layer_norm_epsilon": 0.5}, {"norm_eps": 0.5}),
        (
            "gemma2",
            {"attn_logit_softcapping": 7.0, "final_logit_softcapping": 3.0},
            {"attn_logit_softcapping": 7.0, "final_logit_softcapping": 3.0},
        ),
        ("gemma3", {"attention__key_length": 20}, {"query_pre_attn_scalar": 20}),
        # the model of 27 billion: 48 / 4
        ("gemma3", {"attention__key_length": 20, "block_count": 62}, {"query_pre_attn_scalar": 12}),
        (
            "gemma3",
            {"rope__freq_base": 1e6, "rope__scaling__type": "linear", "rope__scaling__factor": 8.0},
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
        ),
    ],
)
def test_what_transformers_passes_over_in_a_header(tmp_path, architecture, entries, right):
    config = dequantize.gguf_config(header(tmp_path / "m.gguf", architecture, **entries))
    for name, value in right.items():
        got = getattr(config, name)
        if isinstance(value, dict):
            got = {key: got[key] for key in value}
        assert got == value, name


@pytest.mark.parametrize(
    ("architecture", "entries", "message"),
    [
        ("llama", {"attention__clamp_kqv": 8.0}, "clamp_kqv"),
        ("llama", {"attention__value_length": 11}, "value_length"),
        ("llama", {"rope__scale_linear": 4.0}, "scale_linear"),
        ("qwen2", {"rope__dimension_count": 6}, "dimension_count 6"),
        ("qwen3moe", {"expert_gating_func": 2}, "expert_gating_func"),
        ("gemma3", {"attention__sliding_window_pattern": 4}, "sliding_window_pattern"),
    ],
)
def test_a_header_that_asks_for_something_else_is_refused(tmp_path, architecture, entries, message):
    with pytest.raises(ModelError, match=message):
        dequantize.gguf_config(header(tmp_path / "m.gguf", architecture, **entries))
