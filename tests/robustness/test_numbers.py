"""Odd numbers, odd prompts, odd models: each is recorded right, or refused by name."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from llm2bids import open_dataset, record
from llm2bids.exceptions import RecordingError
from llm2bids.model.hooks import first_tensor
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.paradigm.design import RunDesign, Trial
from llm2bids.paradigm.task import Prompt, Sampling
from llm2bids.recording.record import record_run

ODD = {
    "arabic": "اكتب جملة قصيرة عن البحر.",
    "hebrew": "כתוב משפט על הירח \u202e(abc)\u202c.",
    "chinese": "请用一句话介绍长城。",
    "devanagari": "नदी के बारे में लिखो।",
    "emoji": "Say 👩🏽‍🚀 in a word 🧠",
    "combining": "e\u0301 is not \u00e9",
    "quotes": "She said \"no\", then 'yes' and `maybe`",
    "tabs": "a\tb\tc",
    "lines": "first\nsecond\r\n\n  fourth\u2028fifth",
    "quoted": '"',
    "backslash": "C:\\new\\table \\n \\t \\u0041",
    "formula": '=HYPERLINK("http://x","y")',
    "html": "</script><script>alert(1)</script>&amp;<b>",
    "missing": "n/a",
    "shell": "$(touch x); `touch x` && rm -rf ~",
    "end": "</s>",
    "short": "x",
    "long": "bread and " * 25,
}
"""Prompts that a table, a tokenizer or a page may trip over."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.getbasetemp() / "llm2bids-cache"))


def one_run(texts, *, tokens_per_prompt=2, sampling=None, context="fresh") -> RunDesign:
    """A run of these prompts."""
    trials = tuple(
        Trial(
            prompt=Prompt(prompt_id=f"p{number}", condition="c", topic="", text=text),
            trial_type="c" if number % 2 else None,
            block=number,
        )
        for number, text in enumerate(texts)
    )
    return RunDesign(
        participant_label="01",
        task="c",
        run=None,
        trials=trials,
        tokens_per_prompt=tokens_per_prompt,
        context=context,
        sampling=sampling or Sampling(),
        seed=5,
    )


def forward(loaded, token_ids, site):
    """Output of one site at every position of one text, without cache, batch or padding."""
    outputs = []
    handle = loaded.model.get_submodule(site.name).register_forward_hook(
        lambda module, args, output: outputs.append(output)
    )
    with torch.no_grad():
        loaded.model(torch.tensor([token_ids]), use_cache=False)
    handle.remove()
    return first_tensor(outputs[0]).reshape(len(token_ids), site.width).float().numpy()


@pytest.fixture(scope="module")
def odd(tiny_model_dir, tmp_path_factory):
    """A dataset of one-token answers to the odd prompts, from paradigm file to volumes."""
    folder = tmp_path_factory.mktemp("odd")
    rows = [(f"{name}-{c}", c, f"topic {name}", text if c == "on" else f"{text} {number}")
            for c in ("on", "off") for number, (name, text) in enumerate(ODD.items())]  # fmt: skip
    rows += [(f"plain{number}", "off", "", f"plain {number}") for number in range(6)]
    table = pd.DataFrame(rows, columns=["prompt_id", "condition", "topic", "text"])
    table.to_csv(folder / "bank.tsv", sep="\t", index=False)
    (folder / "odd.toml").write_text(
        'order = "interleaved"\nbaseline = "off"\nprompts_per_block = 18\ntokens_per_prompt = 1\n'
        'calibration_prompts = 3\n[tasks]\non = "on"\n[banks]\non = "bank.tsv"\noff = "bank.tsv"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2BIDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return record(
            folder / "dataset",
            model=tiny_model_dir("llama"),
            paradigm=folder / "odd.toml",
            n_participants=1,
            device="cpu",
            sites=("residual",),
            progress=False,
        )


def test_odd_prompts_come_back_from_the_dataset_as_they_were(odd):
    prompts = odd.prompts.set_index("prompt_id")["text"]
    for name, text in ODD.items():
        assert prompts[f"{name}-on"] == text
    table = odd.token_table(odd.runs[0])
    shown = table.loc[table["condition"] == "on", ["prompt_id", "text"]].drop_duplicates()
    assert len(shown) == len(ODD)
    for prompt_id, text in zip(shown["prompt_id"], shown["text"], strict=True):
        assert text == ODD[prompt_id.removesuffix("-on")]


def test_one_token_answers_give_one_volume_each(odd):
    run = odd.runs[0]
    table = odd.transcript(run)
    n_prompts = table["trial"].nunique()
    assert odd.load_run(run).shape[3] == n_prompts == 2 * len(ODD) + 1
    assert table["volume"].notna().sum() == n_prompts
    assert odd.values(run).shape == (n_prompts, odd.space.n_units)
    assert (odd.events(run)["duration"] == odd.t_r(run)).all()
    assert odd.sidecar(run)["VolumesPerPrompt"] == 1


def test_odd_prompts_pass_the_validator(odd):
    from llm2bids.dataset.validate import validate

    assert validate(odd.path).n_errors == 0


def test_values_of_odd_prompts_are_the_models(odd, tiny_loaded):
    """Every odd prompt in one batch equals a plain forward pass over the same text."""
    loaded = tiny_loaded("llama")
    site = select_sites(find_sites(loaded), ["residual"])[-1]
    design = one_run(ODD.values(), tokens_per_prompt=1)
    recording = record_run(loaded, design, [site], keep_first=True)
    for row, trial in enumerate(design.trials):
        prompt = loaded.tokenizer(trial.prompt.text)["input_ids"]
        expected = forward(loaded, prompt, site)[-1]
        np.testing.assert_allclose(recording.values[row], expected, rtol=1e-3, atol=1e-4)


def test_prompts_of_1_and_of_120_tokens_in_one_batch(tiny_loaded):
    loaded = tiny_loaded("gpt2")
    site = select_sites(find_sites(loaded), ["residual"])[0]
    design = one_run(["x", "x y" * 40, "x"], tokens_per_prompt=1)
    recording = record_run(loaded, design, [site], keep_first=True)
    lengths = recording.tokens["prompt_tokens"].tolist()
    assert lengths[0] == 1 and lengths[1] >= 80
    np.testing.assert_allclose(recording.values[0], recording.values[2], rtol=1e-4, atol=1e-5)
    alone = forward(loaded, loaded.tokenizer("x")["input_ids"], site)[-1]
    np.testing.assert_allclose(recording.values[0], alone, rtol=1e-3, atol=1e-4)


@pytest.fixture
def eager_to_end(tiny_model_dir, monkeypatch):
    """A model whose most probable next token is the end of the text, always."""
    loaded = load_model(tiny_model_dir("opt"), device="cpu")
    head = loaded.model.get_output_embeddings()
    end = loaded.end_token_ids[0]

    def favour(module, args, output):
        output = output.clone()
        output[..., end] = output.max() + 50
        return output

    head.register_forward_hook(favour)
    return loaded


@pytest.mark.parametrize("sampling", [Sampling(do_sample=False), Sampling(), Sampling(top_k=1)])
def test_an_end_of_text_in_the_first_position_is_suppressed(eager_to_end, sampling):
    loaded = eager_to_end
    site = select_sites(find_sites(loaded), ["residual"])[0]
    design = one_run(["The", "A scan"], tokens_per_prompt=4, sampling=sampling)
    recording = record_run(loaded, design, [site], keep_first=True)
    assert len(recording.values) == design.n_volumes == 8
    assert not set(recording.tokens["token_id"]) & set(loaded.end_token_ids)
    assert recording.provenance["end_of_text_suppressed"] is True
    assert np.isfinite(recording.tokens["surprisal"]).all()


def test_a_prompt_that_is_an_end_of_text(tiny_loaded):
    loaded = tiny_loaded("llama")
    site = select_sites(find_sites(loaded), ["residual"])[0]
    recording = record_run(loaded, one_run(["</s>", "</s></s>x"]), [site])
    assert recording.tokens["prompt_tokens"].tolist()[:1] == [1]
    assert np.isfinite(recording.values).all()


def test_a_vocabulary_larger_than_65536(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    n = 70_001
    words = {"<s>": 0, "<pad>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, n)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(tmp_path)
    config = transformers.LlamaConfig(
        vocab_size=n, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    site = select_sites(find_sites(loaded), ["residual"])[0]
    design = one_run(["w70000 w65537", "w3"], tokens_per_prompt=80)
    recording = record_run(loaded, design, [site])
    ids = recording.tokens["token_id"]
    assert ids.max() > 65_536
    assert recording.tokens["token"].tolist() == [f"w{i}" for i in ids]
    text = [*loaded.tokenizer("w3")["input_ids"], *ids[81:]]
    expected = forward(loaded, text, site)
    assert text[0] == 3
    np.testing.assert_allclose(recording.values[80:], expected[1:81], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_from_the_command_to_the_dataset(tiny_model_dir, tmp_path, dtype):
    dataset = record(
        tmp_path / "d", model=tiny_model_dir("llama"), dtype=dtype, device="cpu", progress=False,
        n_participants=1, task_labels=("pathology",), prompts_per_block=2, tokens_per_prompt=2,
        sites=("mlp",), volume_dtype="float32",
    )  # fmt: skip
    run = dataset.runs[0]
    assert dataset.sidecar(run)["ComputeDataType"] == dataset.settings["dtype"] == dtype
    values = dataset.values(run)
    narrow = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    # counts are float32: they hold a half-precision value to seven digits
    np.testing.assert_allclose(values, narrow, rtol=1e-4, atol=1e-5)


@pytest.fixture
def dead_and_extreme(tiny_model_dir, tmp_path):
    """An OPT with a unit that is never active, a constant one, and one that jumps far."""
    model = transformers.OPTForCausalLM.from_pretrained(tiny_model_dir("opt"))
    layer = model.model.decoder.layers[1]
    with torch.no_grad():
        layer.fc1.bias[3] = -1e4  # never active behind the ReLU
        layer.fc1.weight[5], layer.fc1.bias[5] = 0.0, 2.5  # constant
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model_dir("opt") / name).read_bytes())
    return tmp_path


def test_units_that_are_constant_or_never_active_are_counted_and_finite(
    dead_and_extreme, tmp_path_factory
):
    dataset = record(
        tmp_path_factory.mktemp("dead") / "d", model=dead_and_extreme, device="cpu",
        n_participants=1, task_labels=("pathology",), prompts_per_block=3, tokens_per_prompt=2,
        sites=("mlp",), progress=False,
    )  # fmt: skip
    name = "model.decoder.layers.1.fc1"
    constant = dataset.space.unit_of(f"{name}[5]")
    active = [s.name for s in dataset.space.sites if "activation" in s.name and ".1." in s.name]
    dead = dataset.space.unit_of(f"{active[0]}[3]")
    assert dataset.calibration.sd[[constant, dead]].tolist() == [0, 0]
    values = dataset.values(dataset.runs[0])
    assert np.isfinite(values).all()
    about = dataset.sidecar(dataset.runs[0])
    assert about["NumberOfConstantUnits"] >= 2
    # constant units carry the dither, a few counts of 1/100 of their scale, which is 1
    np.testing.assert_allclose(values[:, constant], 2.5, atol=0.035)
    np.testing.assert_allclose(values[:, dead], 0, atol=0.035)


def test_values_beyond_int16_are_clipped_counted_and_whole_in_float32(tiny_loaded, tmp_path):
    from llm2bids.recording.calibration import Calibration
    from llm2bids.space.arrange import build_space
    from llm2bids.space.image import decode
    from tests.synthetic import encode

    loaded = tiny_loaded("llama")
    sites = select_sites(find_sites(loaded), ["residual"])
    recording = record_run(loaded, one_run(["The", "A scan of the chest"]), sites)
    n_units = recording.values.shape[1]
    space = build_space(sites, label="Tiny", model_name="tiny", weights_sha256="0" * 64)
    calibration = Calibration(
        mean=np.zeros(n_units, np.float32), sd=np.full(n_units, 1e-3, np.float32),
        prompt_ids=(), n_tokens=1,
    )  # fmt: skip
    narrow, counts = encode(recording.values, space, calibration, seed=0)
    scaled = 10_000 + 100 * recording.values.astype(np.float64) / 1e-3
    beyond = np.count_nonzero((np.rint(scaled) < -32768) | (np.rint(scaled) > 32767))
    assert counts.clipped == beyond > 0
    assert narrow.min() >= -32768 and narrow.max() <= 32767
    wide, counts = encode(recording.values, space, calibration, seed=0, dtype="float32")
    assert counts.clipped == 0
    np.testing.assert_allclose(decode(wide.T, space, calibration), recording.values, rtol=1e-4,
                               atol=1e-5)  # fmt: skip


def test_float16_that_overflows_is_refused_by_name(tiny_model_dir):
    loaded = load_model(tiny_model_dir("llama"), device="cpu", dtype="float16")
    sites = select_sites(find_sites(loaded), ["mlp"])
    with torch.no_grad():
        loaded.model.get_submodule("model.layers.2.mlp.down_proj").weight.fill_(6e4)
        loaded.model.get_submodule("model.layers.2.mlp.up_proj").weight.fill_(6e4)
    with pytest.raises(RecordingError, match=r"module model\.layers\.2.*--dtype float32"):
        record_run(loaded, one_run(["The"]), sites)


def test_every_text_file_of_an_odd_dataset_is_plain(odd):
    """One row is one line, and JSON holds no number that JSON does not know."""
    for path in sorted(Path(odd.path).rglob("*.json")):
        json.loads(path.read_text("utf-8"), parse_constant=lambda text: pytest.fail(text))
    for path in sorted(Path(odd.path).rglob("*_tokens.tsv")):
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
        assert {line.count("\t") for line in lines} == {lines[0].count("\t")}
        assert len(lines) == 1 + len(odd.transcript(odd.runs[0]))
    assert open_dataset(odd.path).runs
