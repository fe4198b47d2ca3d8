"""Reading a story: the values of a plain forward pass, at the times of the words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.model.sites import find_sites
from llm2bids.recording.read import check_reading, read_story, tokenize
from llm2bids.recording.story import Story, join_words
from llm2bids.recording.timing import Reading
from tests.plain import plain_values

TEXT = "The senate of old Rome didn't vote. A scan, 3,14 shows x"
WORDS = TEXT.split()
ONSETS = [0.2, 0.7, 1.1, 1.5, np.nan, 2.6, 3.1, 9.0, 9.4, 9.9, 10.4, 11.0]
READING = Reading(
    t_r=1.5, n_volumes=11, start_time=0.75, context="story", stride=None, pool="last", at="word",
    resampling="lanczos", anchor="mid", per_word=False,
)  # fmt: skip


@pytest.fixture
def story():
    words = pd.DataFrame({"onset": ONSETS, "duration": 0.3, "word": WORDS})
    return Story(
        label="rome", words=words.assign(trial_type="word", sentence=None), source="rome.tsv"
    )


@pytest.fixture(params=["llama", "gpt2", "mamba", "gemma"])
def loaded(request, tiny_loaded):
    return tiny_loaded(request.param)


@pytest.fixture
def sites(loaded):
    return find_sites(loaded).sites


@pytest.fixture
def llama(tiny_loaded):
    """A model, its sites, and zeros for their means."""
    loaded = tiny_loaded("llama")
    table = find_sites(loaded)
    return loaded, table.sites, np.zeros(table.n_units, dtype=np.float32)


@pytest.fixture
def mean(sites):
    return np.random.default_rng(3).normal(size=sum(site.width for site in sites)).astype("float32")


def plain(loaded, sites, token_ids):
    """Values (n_tokens + 1, n_units) and bits of a text after the lead-in, by plain hooks."""
    fed = [0, *token_ids]
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([fed]), use_cache=False).logits
    log_p = torch.log_softmax(logits[0], dim=-1) / np.log(2)
    bits = [-float(log_p[at, token]) for at, token in enumerate(token_ids)]
    return plain_values(loaded.model, fed, sites), np.array(bits)


def close(values, expected):
    np.testing.assert_allclose(values, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max())


def last_tokens(loaded, text):
    """Index of the last token of each word, found by reading on word by word."""
    tokenizer, ends = loaded.tokenizer, []
    for n_words in range(1, len(text) + 1):
        part = join_words(pd.Series(text[:n_words]))[0]
        ends.append(len(tokenizer(part, add_special_tokens=False).input_ids) - 1)
    return np.array(ends)


def test_values_are_those_of_a_plain_pass_resampled(loaded, sites, mean, story):
    recording = read_story(loaded, story, READING, sites, mean=mean, seed=1)
    token_ids = loaded.tokenizer(join_words(story.words["word"])[0]).input_ids
    values, bits = plain(loaded, sites, token_ids)
    ends = last_tokens(loaded, WORDS)
    of_words = values[1:][ends]  # row 0 is the lead-in
    weights = READING.weights(story.words).toarray()
    close(recording.values, mean + weights @ (of_words - mean))
    starts = np.append(0, ends[:-1] + 1)
    events = recording.events
    timed = np.isfinite(ONSETS)
    np.testing.assert_allclose(events["surprisal"], np.add.reduceat(bits, starts)[timed], atol=1e-3)
    assert events["n_tokens"].tolist() == (ends - starts + 1)[timed].tolist()
    assert events["word"].tolist() == [w for w, t in zip(WORDS, timed, strict=True) if t]
    tokens = recording.tokens
    assert tokens["token_id"].tolist() == token_ids
    assert tokens["volume"].tolist()[:3] == [0, 0, 0]  # shared
    assert tokens["volume"][tokens["word"] == 4].isna().all()  # missing
    # silence: volumes that are 3 or more away from every word
    (silent,) = np.nonzero(np.abs(weights).sum(axis=1) == 0)
    assert len(silent) and np.array_equal(
        recording.values[silent], mean[None].repeat(len(silent), 0)
    )


def test_a_word_alone_is_the_kernel_at_its_time(loaded, sites, mean):
    words = pd.DataFrame({"onset": [6.2], "duration": [0.5], "word": ["senate"]})
    alone = Story(label="s", words=words.assign(trial_type="word", sentence=None), source="s.tsv")
    recording = read_story(loaded, alone, READING, sites, mean=mean, seed=1)
    peak = plain(loaded, sites, loaded.tokenizer("senate").input_ids)[0][-1] - mean
    x = (np.arange(11) * 1.5 + 0.75 - 6.45) / 1.5
    kernel = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    biggest = np.argmax(np.abs(peak))
    found = (recording.values[:, biggest] - mean[biggest]) / peak[biggest]
    np.testing.assert_allclose(found, kernel, atol=1e-6)
    np.testing.assert_allclose(
        recording.values - mean, kernel[:, None] * peak, atol=1e-6 * np.abs(peak).max()
    )


@pytest.mark.parametrize("pool", ["last", "mean", "sum"])
@pytest.mark.parametrize("at", ["word", "before"])
def test_per_word(pool, at, llama, story):
    loaded, sites, mean = llama
    mean = mean + 0.25
    reading = replace(
        READING, per_word=True, n_volumes=11, start_time=0.0, t_r=0.5, pool=pool, at=at
    )
    if at == "before" and pool != "last":
        with pytest.raises(UsageError, match="--at before --pool"):
            check_reading(reading, story)
        return
    recording = read_story(loaded, story, reading, sites, mean=mean, seed=1)
    values = plain(loaded, sites, loaded.tokenizer(join_words(story.words["word"])[0]).input_ids)[0]
    ends = last_tokens(loaded, WORDS)
    starts = np.append(0, ends[:-1] + 1)
    if at == "before":
        expected = values[starts]  # a row earlier, as the lead-in is row 0
        expected[0] = mean  # the lead-in is no value
    elif pool == "last":
        expected = values[1:][ends]
    else:
        deviation = np.add.reduceat(values[1:] - mean, starts)
        counts = (ends - starts + 1)[:, None] if pool == "mean" else 1
        expected = mean + deviation / counts
    timed = np.isfinite(ONSETS)
    close(recording.values, expected[timed])
    assert recording.events["onset"].tolist() == [index * 0.5 for index in range(11)]
    np.testing.assert_allclose(recording.events["spoken_onset"], np.array(ONSETS)[timed])
    assert recording.tokens["volume"].dropna().max() == 10
    assert "word_rate" not in recording.confounds


@pytest.mark.parametrize(("size", "stride"), [(8, None), (8, 1), (8, 8), (5, 3)])
def test_windows_read_each_word_in_its_context(size, stride, llama, story):
    loaded, sites, mean = llama
    reading = replace(
        READING, per_word=True, n_volumes=11, start_time=0.0, context=size, stride=stride
    )
    recording = read_story(loaded, story, reading, sites, mean=mean, seed=1)
    text = tokenize(loaded, story, reading)
    covered = np.concatenate([np.arange(w.first, w.end) for w in text.windows])
    assert covered.tolist() == list(range(len(text.trial)))  # each token once
    first = {*text.tokens.first.tolist(), len(text.trial)}
    longest = int((text.tokens.last - text.tokens.first).max()) + 1
    for window in text.windows:
        assert {window.start, window.first, window.end} <= first  # no word is cut
        assert window.end - window.start <= max(size, longest)
    for window in text.windows[1:]:  # each reads on by a stride
        assert window.end - window.first <= max(stride or size // 2, longest)
    ends = last_tokens(loaded, WORDS)
    row = 0
    for word, end in enumerate(ends):
        if np.isnan(ONSETS[word]):
            continue
        window = next(w for w in text.windows if w.first <= end < w.end)
        fed = text.tokens.token_ids[window.start : end + 1].tolist()
        close(recording.values[row], plain(loaded, sites, fed)[0][-1])
        row += 1


def test_sentences_are_contexts_of_their_own(llama, story):
    loaded, sites, mean = llama
    reading = replace(READING, per_word=True, n_volumes=11, start_time=0.0, context="sentence")
    recording = read_story(loaded, story, reading, sites, mean=mean, seed=1)
    assert [trial.prompt.text for trial in recording.design.trials] == [
        "The senate of old Rome didn't vote.", "A scan, 3,14 shows x",
    ]  # fmt: skip
    fed = loaded.tokenizer("A scan, 3,14 shows x").input_ids
    close(recording.values[-1], plain(loaded, sites, fed)[0][-1])
    assert recording.tokens["trial"].unique().tolist() == [0, 1]
    assert (recording.tokens.groupby("trial")["position"].min() == 0).all()


def test_average_and_last_word_of_a_volume(llama, story):
    loaded, sites, mean = llama
    values = plain(loaded, sites, loaded.tokenizer(join_words(story.words["word"])[0]).input_ids)[0]
    of_words = values[1:][last_tokens(loaded, WORDS)]
    average = read_story(
        loaded, story, replace(READING, resampling="average"), sites, mean=mean, seed=1
    )
    close(average.values[0], of_words[:3].mean(axis=0))  # middles 0.35, 0.85, 1.25
    last = read_story(loaded, story, replace(READING, resampling="none"), sites, mean=mean, seed=1)
    close(last.values[0], of_words[2])
    np.testing.assert_allclose(average.confounds["word_rate"][0], 3 / 1.5)
    np.testing.assert_allclose(average.confounds["word_length"][0], (3 + 6 + 2) / 3)


def test_confounds_lie_on_the_clock_of_the_values(llama, story):
    loaded, sites, mean = llama
    recording = read_story(loaded, story, READING, sites, mean=mean, seed=1)
    weights = READING.weights(story.words)
    np.testing.assert_allclose(
        recording.confounds["word_rate"], weights @ np.ones(12) / 1.5, atol=1e-6
    )
    lengths = np.array([len(word) for word in WORDS], dtype=float)
    np.testing.assert_allclose(recording.confounds["word_length"], weights @ lengths, atol=1e-5)


def test_a_head_that_does_more_gives_the_same_bits(tiny_loaded, story):
    """Logits come from the head in chunks; where the model caps or scales them, all at once."""
    from llm2bids.model import read

    loaded = tiny_loaded("llama")
    table = find_sites(loaded)
    mean = np.zeros(sum(site.width for site in table.sites), dtype=np.float32)
    chunked = read_story(loaded, story, READING, table.sites, mean=mean, seed=1)
    with_head = (*table.sites, *table.head)
    wide = np.zeros(sum(site.width for site in with_head), dtype=np.float32)
    whole = read_story(loaded, story, READING, with_head, mean=wide, seed=1)
    for column in ("surprisal", "entropy"):
        np.testing.assert_allclose(chunked.tokens[column], whole.tokens[column], atol=1e-4)
    fed = [0, 5, 6, 7]
    assert read._plain_head(loaded, fed, table.sites) is loaded.model.lm_head
    assert read._plain_head(loaded, fed, with_head) is None

    capped = loaded.model.register_forward_hook(
        lambda module, args, output: setattr(output, "logits", torch.tanh(output.logits))
    )
    try:
        assert read._plain_head(loaded, fed, table.sites) is None
    finally:
        capped.remove()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_r": 0.1}, r"below a word of rome.tsv \(median 0.3 s\).*--per-word"),
        ({"n_volumes": 4}, "its last word is at 11.2 s, the run has 4 volumes of 1.5 s"),
        ({"context": 4, "stride": 6}, "--stride 6: longer than the window of 4"),
        ({"stride": 2}, "expected --context N with it"),
    ],
)
def test_clocks_that_do_not_fit(changes, message, story):
    with pytest.raises(UsageError, match=message):
        check_reading(replace(READING, **changes), story)


def test_a_story_longer_than_the_context(tiny_loaded, story):
    loaded = tiny_loaded("llama")
    long = replace(story, words=pd.concat([story.words] * 9, ignore_index=True))
    with pytest.raises(RecordingError, match=r"rome.tsv: \d+ tokens exceed the context of .*128"):
        tokenize(loaded, long, READING)
    assert tokenize(loaded, long, replace(READING, context=63)).windows
