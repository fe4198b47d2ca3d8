"""Loading: what works, and what each refusal says."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import transformers
from safetensors.torch import load_file, save_file

from llm2bids.exceptions import ModelError, UsageError
from llm2bids.model import cache
from llm2bids.model.load import NO_LIMIT, load_model
from llm2bids.model.location import model_label

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    """A copy of the tiny Llama that a test may spoil."""
    return shutil.copytree(tiny_model_dir("llama"), tmp_path / "My model-1.0")


def test_local_folder(folder):
    loaded = load_model(folder)
    assert loaded.name == "My model-1.0"
    assert loaded.label == "Mymodel10"
    assert loaded.source == str(folder)
    assert loaded.dtype == "float32"
    assert loaded.max_length == 128
    assert loaded.end_token_ids == (2,)
    assert loaded.pad_token_id == 1
    assert loaded.tokenizer.padding_side == "left"
    assert loaded.weights_sha256 == cache.sha256_of(folder / "model.safetensors")
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_the_weights_hash_of_several_files_and_its_memory(folder, monkeypatch):
    other = folder / "a.safetensors"
    shutil.copy(folder / "model.safetensors", other)
    both = cache.weights_sha256([folder / "model.safetensors", other])
    assert both == cache.weights_sha256([other, folder / "model.safetensors"])
    assert both != cache.weights_sha256([other])
    monkeypatch.setattr(cache, "_SETTLED", -1)
    assert both == cache.weights_sha256([folder / "model.safetensors", other])
    monkeypatch.setattr(cache, "sha256_of", None)  # from now on only from memory
    assert both == cache.weights_sha256([folder / "model.safetensors", other])


def test_changed_weights_have_another_hash(folder):
    before = load_model(folder).weights_sha256
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {k: v + 1 for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    assert load_model(folder).weights_sha256 != before


def test_other_bytes_with_the_same_time_and_size_have_another_hash(folder, monkeypatch):
    monkeypatch.setattr(cache, "_SETTLED", -1)
    path = folder / "model.safetensors"
    before, times = load_model(folder).weights_sha256, path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)  # in place, as rsync --inplace does
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    in_place = load_model(folder).weights_sha256
    assert in_place == cache.sha256_of(path) != before
    content[-2] ^= 1
    (folder / "new").write_bytes(content)  # and put in its place, as tar and rsync do
    os.utime(folder / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / "new").replace(path)
    assert load_model(folder).weights_sha256 == cache.sha256_of(path) != in_place


def test_a_file_that_was_just_written_is_not_remembered(folder, own_cache):
    load_model(folder)
    assert not (own_cache / "weights_sha256.json").exists()


def test_only_files_that_are_loaded_count(folder):
    before = load_model(folder).weights_sha256
    other = load_file(folder / "model.safetensors")
    save_file(other, folder / "consolidated.safetensors", {"format": "pt"})
    (folder / "._model.safetensors").write_bytes(b"\0\5\26\7")
    (folder / "._config.json").write_bytes(b"\0\5\26\7")
    assert load_model(folder).weights_sha256 == before


def test_shards(folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    single = load_model(folder)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((names[:7], names[7:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    loaded = load_model(folder)
    assert len(loaded.weights_sha256) == 64 != single.weights_sha256
    shutil.copy(folder / file, folder / "model.safetensors")
    with pytest.raises(ModelError, match="two checkpoints"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    (folder / file).unlink()
    with pytest.raises(ModelError, match=f"{file} of its 2 shards are not in the folder"):
        load_model(folder)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_pointers_are_named(folder, name):
    path = folder / name
    path.write_text(LFS)
    with pytest.raises(ModelError, match=rf"{name}: is a pointer of Git LFS.*git lfs pull"):
        load_model(folder)
    path.write_text("/annex/objects/SHA256E-s12--00.safetensors\n")
    with pytest.raises(ModelError, match=rf"{name}: is a pointer of git-annex.*datalad get"):
        load_model(folder)
    path.unlink()
    path.symlink_to(".git/annex/objects/aa/bb/c")
    with pytest.raises(ModelError, match=rf"{name}: is a link of git-annex.*datalad get"):
        load_model(folder)


def test_spoiled_memory_of_hashes_is_ignored(folder, own_cache):
    own_cache.mkdir()
    (own_cache / "weights_sha256.json").write_text("[")
    assert len(load_model(folder).weights_sha256) == 64


def test_mamba_has_no_longest_context(tiny_loaded):
    assert tiny_loaded("mamba").max_length == NO_LIMIT


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype(folder, dtype):
    assert load_model(folder, dtype=dtype).dtype == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype 'int4' is unknown; expected auto, float32"),
        ({"device": "gpu"}, "device 'gpu' is unknown"),
        ({"device": "meta"}, "is unknown"),
        ({"device": "cuda:99"}, "not on this machine"),
        ({"revision": "main"}, r"revision 'main': .* is not a hub model"),
    ],
)
def test_options_that_mean_nothing(folder, options, message):
    with pytest.raises(UsageError, match=message):
        load_model(folder, **options)


def test_a_checkpoints_own_generation_settings_do_not_apply(folder):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [2, 5], "repetition_penalty": 1.3, "top_k": 4}))
    config = load_model(folder).model.generation_config
    assert config.eos_token_id == [2, 5]
    assert config.repetition_penalty is None
    assert config.top_k is None


def test_tokenizer_without_padding_and_end(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"], config["eos_token"]
    path.write_text(json.dumps(config))
    loaded = load_model(folder)
    assert loaded.pad_token_id == 1  # the model's own
    assert loaded.end_token_ids == (2,)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_no_such_folder(name):
    with pytest.raises(ModelError, match=r"no such folder.*--model embedded"):
        load_model(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such GGUF file"), (b"GGUF" + bytes(64), r"model\.gguf: its header cannot be read")],
)
def test_no_gguf_file(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"no config\.json in it"),
        ("config.json", b"{", "cannot be loaded"),
        ("model.safetensors", None, r"no \*\.safetensors weights"),
        ("model.safetensors", bytes(1000), "cannot be loaded"),
        ("tokenizer.json", b"{}", "no usable tokenizer"),
        ("tokenizer*", None, r"tokenizer.*save_pretrained"),
    ],
)
def test_a_file_that_is_missing_or_damaged(folder, name, content, message):
    for path in folder.glob(name):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model\.bin\).*save_pretrained"):
        load_model(folder)


def test_weights_that_are_missing_are_not_made_up(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are not in the checkpoint .first model\.lay"):
        load_model(folder)


def test_weights_that_the_configuration_does_not_take(folder):
    tensors = load_file(folder / "model.safetensors")
    extra = {"model.layers.0.self_attn.q_proj.bias": tensors["model.norm.weight"].clone()}
    save_file(tensors | extra, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"has 1 weights that LlamaForCausalLM .*q_proj\.bias"):
        load_model(folder)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    shorter = config | {"num_hidden_layers": config["num_hidden_layers"] - 1}
    (folder / "config.json").write_text(json.dumps(shorter))
    with pytest.raises(ModelError, match=r"has 9 weights that .*model\.layers\.2\."):
        load_model(folder)


def test_weights_that_a_model_makes_itself_may_be_there(tiny_model_dir, tmp_path):
    for kind, extra in (
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("gpt2", "transformer.h.0.attn.bias"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
    ):
        copy = shutil.copytree(tiny_model_dir(kind), tmp_path / extra)
        tensors = load_file(copy / "model.safetensors")
        made = {extra: tensors[next(iter(tensors))].clone()}
        save_file(tensors | made, copy / "model.safetensors", {"format": "pt"})
        load_model(copy)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 32}, r"shapes .*first lm_head\.weight: \(331, 24\), not \(331, 32\)"),
        ({"vocab_size": 100}, r"2 weights have other shapes .*\(331, 24\), not \(100, 24\)"),
        ({"rms_norm_eps": None}, "'rms_norm_eps': .*expected float"),
    ],
)
def test_a_configuration_of_another_model(folder, changes, says, capfd):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=says):
        load_model(folder)
    assert "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["bert", "t5", "base"])
def test_no_causal_head(tmp_path, name):
    small = {"vocab_size": 50, "hidden_size": 8, "num_attention_heads": 2}
    small |= {"num_hidden_layers": 1, "intermediate_size": 8}
    if name == "bert":
        model = transformers.BertForMaskedLM(transformers.BertConfig(**small))
    elif name == "t5":
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1)
        )
    else:
        model = transformers.LlamaModel(transformers.LlamaConfig(**small))
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{type(model).__name__} has no causal head"):
        load_model(tmp_path)


def test_hub_name_that_cannot_be_reached():
    """The tests run with HF_HUB_OFFLINE=1: the name is not in the local cache."""
    with pytest.raises(ModelError, match=r"not in the local cache.*--model embedded"):
        load_model("facebook/no-such-model-125m")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(folder, tmp_path):
    """A model in a cache laid out as huggingface_hub does."""
    repository = tmp_path / "hub" / "models--someone--tiny-llama"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return shutil.copytree(folder, repository / "snapshots" / COMMIT)


def load_from_hub(tmp_path):
    """Load it in a fresh process without network."""
    program = (
        "from llm2bids.model.load import load_model\n"
        "loaded = load_model('someone/tiny-llama')\n"
        "print(loaded.name, loaded.label, loaded.revision, loaded.weights_sha256)"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_hub_name_in_the_local_cache(snapshot, tmp_path):
    digest = cache.sha256_of(snapshot / "model.safetensors")
    done = load_from_hub(tmp_path)
    assert done.stdout.split() == ["someone/tiny-llama", "tinyllama", COMMIT, digest]


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_on_the_hub_is_not_passed_over(snapshot, tmp_path, alone):
    (snapshot / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    if alone:
        (snapshot / "config.json").unlink()
    assert "the repository holds an adapter; fetch it" in load_from_hub(tmp_path).stderr


def test_code_that_comes_with_the_weights_does_not_run(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_type"] = "unheard_of"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    path.write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("embedded", "SmolLM2135M"),
        ("facebook/galactica-125m", "galactica125m"),
        ("/models/My_model.v2", "Mymodelv2"),
        ("q/SmolLM2.Q4_1.gguf", "SmolLM2Q41"),
        ("___", "model"),
    ],
)
def test_model_label(name, label):
    assert model_label(name) == label


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "llm2bids-cache"
    monkeypatch.delenv("LLM2BIDS_CACHE")
    assert cache.cache_folder() == tmp_path / "llm2bids"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "llm2bids"
