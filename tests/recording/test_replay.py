"""Replaying the run's own tokens gives the recording back."""

import numpy as np
import pytest

from llm2bids.exceptions import RecordingError
from llm2bids.model.sites import find_sites
from llm2bids.recording.record import record_run, replay_run


def answers_of(recording):
    return [rows.token_id.tolist() for _, rows in recording.tokens.groupby("trial")]


@pytest.mark.parametrize(
    "architecture", ["llama", "opt", "gpt2", "gpt_neox", "qwen3", "gemma", "mamba", "mixtral"]
)
@pytest.mark.parametrize("keep_first", [False, True])
def test_replay_equals_record(architecture, keep_first, tiny_loaded, design_of):
    loaded = tiny_loaded(architecture)
    table = find_sites(loaded)
    sites = (*table.sites, *table.head)
    recorded = record_run(loaded, design_of(), sites, keep_first=keep_first)
    seen = []
    replayed = replay_run(
        loaded,
        design_of(),
        sites,
        answers_of(recorded),
        keep_first=keep_first,
        batch_size=3,
        on_token=seen.append,
    )
    scale = np.abs(recorded.values).max()
    np.testing.assert_allclose(replayed.values, recorded.values, rtol=2e-4, atol=1e-5 * scale)
    same = ["volume", "trial", "trial_type", "token_id", "token", "prompt_tokens"]
    assert replayed.tokens[same].equals(recorded.tokens[same])
    for column in ("surprisal", "entropy"):
        np.testing.assert_allclose(replayed.tokens[column], recorded.tokens[column], atol=1e-3)
    assert sum(seen) == recorded.design.n_volumes
    assert replayed.provenance["method"] == "replay"


def test_replay_of_a_carried_context(tiny_loaded, design_of):
    loaded = tiny_loaded("llama")
    sites = find_sites(loaded).sites
    design = design_of(texts=("The", "A scan of", "x y"), context="carry", tokens_per_prompt=4)
    recorded = record_run(loaded, design, sites)
    replayed = replay_run(loaded, design, sites, answers_of(recorded))
    np.testing.assert_allclose(replayed.values, recorded.values, rtol=2e-4, atol=1e-4)


def test_replay_of_text(tiny_loaded, design_of):
    loaded = tiny_loaded("llama")
    sites = find_sites(loaded).sites
    design = design_of(texts=("The senate", "A scan"))
    texts = [" of the old republic voted on the", " of the chest shows a small shadow in"]
    replayed = replay_run(loaded, design, sites, texts)
    ids = [loaded.tokenizer(text)["input_ids"][:6] for text in texts]
    assert replayed.tokens.token_id.tolist() == [*ids[0], *ids[1]]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["The"], "1 answers for 2 trials"),
        (["The", "A"], r"answer to prompt p0 \(trial 0\): 1 tokens; expected at least 6"),
        ([[5] * 6, [5] * 5], r"answer to prompt p1 \(trial 1\): 5 tokens"),
        ([[5] * 6, [999] * 6], "token id 999; expected 0 to 330"),
        ([[5] * 6, ""], "0 tokens"),
    ],
)
def test_transcripts_that_do_not_fit(answers, message, tiny_loaded, design_of):
    loaded = tiny_loaded("llama")
    with pytest.raises(RecordingError, match=message):
        replay_run(loaded, design_of(texts=("The", "A")), find_sites(loaded).sites, answers)
