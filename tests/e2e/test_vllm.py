"""docs/how-to/generate-with-vllm.md: its Python blocks turn another engine's answers to a table."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import llm2bids
from llm2bids.exceptions import Llm2bidsError
from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites
from tests.plain import plain_values

PAGE = Path(__file__).parents[2] / "docs/how-to/generate-with-vllm.md"

NUMBERS = {"n_participants": 1, "prompts_per_block": 1, "tokens_per_prompt": 3, "seed": 0}
TASK = ("paleontology",)


def answers(model, prompts):
    """The fields of vLLM's RequestOutput, filled by transformers."""
    loaded = load_model(model, device="cpu")
    outputs = []
    for text in prompts.values():
        ids = loaded.tokenizer(text)["input_ids"]
        with torch.no_grad():
            said = loaded.model.generate(
                torch.tensor([ids]), min_new_tokens=4, max_new_tokens=4, do_sample=False
            )[0, len(ids) :].tolist()
        part = {"text": loaded.tokenizer.decode(said), "token_ids": said}
        outputs.append({"prompt": text, "prompt_token_ids": ids, "outputs": [part]})
    return outputs


@pytest.fixture
def table(tiny_model_dir, tmp_path, monkeypatch):
    """Follow the page: prompts, answers, transcripts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    draw, convert = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    numbers = ", ".join(f"{name}={value!r}" for name, value in NUMBERS.items())
    draw = draw.replace("n_participants=8, seed=0", f"{numbers}, task_labels={TASK!r}")
    assert numbers in draw
    exec(compile(draw, str(PAGE), "exec"), {})
    prompts = json.loads(Path("prompts.json").read_text())
    Path("outputs.json").write_text(json.dumps(answers(tiny_model_dir("llama"), prompts)))
    exec(compile(convert, str(PAGE), "exec"), {})
    return Path("transcripts.tsv")


def test_answers_of_another_engine_are_replayed(table, tiny_model_dir):
    options = {"model": tiny_model_dir("llama"), "device": "cpu", "progress": False, **NUMBERS}
    options |= {"task_labels": TASK, "volume_dtype": "float32"}
    dataset = llm2bids.replay("replayed", transcripts=table, **options)
    (run,) = dataset.runs
    transcript = dataset.transcript(run)
    values = dataset.values(run)
    loaded = load_model(tiny_model_dir("llama"), device="cpu")
    sites = find_sites(loaded).sites
    prompts = json.loads(Path("prompts.json").read_text())
    given = pd.read_csv(table, sep="\t").groupby("prompt_id")["token_id"].apply(list)
    assert len(given) == transcript["prompt_id"].nunique() > 1
    for prompt_id, rows in transcript.groupby("prompt_id"):
        assert rows["token_id"].tolist() == given[prompt_id]
        ids = loaded.tokenizer(prompts[prompt_id])["input_ids"]
        plain = plain_values(loaded.model, [*ids, *given[prompt_id]][:-1], sites)[len(ids) :]
        volumes = rows["volume"].dropna().astype(int)
        np.testing.assert_allclose(values[volumes], plain, rtol=1e-3, atol=1e-4)
    with pytest.raises(Llm2bidsError, match="no answer to"):
        llm2bids.replay("other", transcripts=table, **{**options, "seed": 1})
