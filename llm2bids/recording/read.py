"""Reading a story: the model reads words, and their values are put on a scan's clock."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import block_diag, csc_array, csr_array

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.model.tokenizer import WordTokens, decode, lead_in, word_tokens
from llm2bids.model.units import Site
from llm2bids.paradigm.design import RunDesign, Trial
from llm2bids.paradigm.seed import derive_seed
from llm2bids.paradigm.task import Prompt, Sampling
from llm2bids.recording.batches import check_finite
from llm2bids.recording.record import Recording
from llm2bids.recording.story import Story, join_words, sentence_numbers
from llm2bids.recording.timing import LOBES, Reading
from llm2bids.recording.tokens import provenance

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.read import Window

# Bank of the texts that are read.
CONDITION = "story"


def contexts(story: Story, reading: Reading) -> list[slice]:
    """Give the words of each context: all, or those of a sentence."""
    if reading.context != "sentence":
        return [slice(0, len(story.words))]
    edges = np.flatnonzero(np.diff(sentence_numbers(story), prepend=-1))
    ends = [*edges[1:].tolist(), len(story.words)]
    return [slice(int(start), int(end)) for start, end in zip(edges, ends, strict=True)]


def story_design(story: Story, reading: Reading, *, seed: int) -> RunDesign:
    """Make the run of a story: each context is a trial."""
    parts = contexts(story, reading)
    trials = []
    for index, part in enumerate(parts):
        words = story.words.iloc[part]
        kinds = words["trial_type"].unique()
        name = [story.label] if story.run is None else [story.label, f"run{story.run}"]
        name += [f"{index:04d}"] if len(parts) > 1 else []
        if story.participant_label != "01":
            name.insert(0, f"sub{story.participant_label}")
        text = join_words(words["word"])[0]
        prompt = Prompt(prompt_id="-".join(name), condition=CONDITION, topic="", text=text)
        kind = str(kinds[0]) if len(kinds) == 1 else None
        trials.append(Trial(prompt=prompt, trial_type=kind, block=index))
    return RunDesign(
        participant_label=story.participant_label,
        task=story.label,
        run=story.run,
        trials=tuple(trials),
        tokens_per_prompt=1,
        context="fresh",
        sampling=Sampling(do_sample=False),
        seed=derive_seed(seed, "run", story.participant_label, story.label, story.run or 1),
        clock_volumes=reading.n_volumes,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """All tokens of a story, and in which passes they are read."""

    tokens: WordTokens
    trial: npt.NDArray[np.int64]  # (n_tokens,)
    windows: list["Window"]
    lead_in: list[int]


def tokenize(loaded: "LoadedModel", story: Story, reading: Reading) -> Text:
    """Tokenize a story and cut it into passes; what the model cannot take is refused."""
    parts: list[WordTokens] = []
    windows: list[Window] = []
    n_tokens = 0
    for words in contexts(story, reading):
        text, places = join_words(story.words["word"].iloc[words])
        parts.append(word_tokens(loaded, text, places, name=story.source))
        windows += _windows(parts[-1], n_tokens, reading)
        n_tokens += len(parts[-1].token_ids)
    lead = lead_in(loaded)
    longest = len(lead) + max(window.end - window.start for window in windows)
    if longest > loaded.max_length:
        raise RecordingError(
            f"{story.source}: {longest} tokens exceed the context of {loaded.name} "
            f"({loaded.max_length} tokens); read it through a window: --context "
            f"{(loaded.max_length - len(lead)) // 2}, or sentence by sentence: --context sentence"
        )
    tokens = WordTokens(
        token_ids=np.concatenate([part.token_ids for part in parts]),
        share=csr_array(block_diag([part.share for part in parts], format="csr")),
    )
    trial = np.repeat(np.arange(len(parts)), [len(part.token_ids) for part in parts])
    return Text(tokens=tokens, trial=trial, windows=windows, lead_in=lead)


def _windows(tokens: WordTokens, start: int, reading: Reading) -> "list[Window]":
    """Cut a context into windows of whole words; each reads on by a stride, at least a word."""
    from llm2bids.model.read import Window

    n_tokens = len(tokens.token_ids)
    if isinstance(reading.context, str):
        return [Window(start=start, end=start + n_tokens, first=start)]
    size, stride = reading.context, reading.stride or max(reading.context // 2, 1)
    edges = np.unique(np.append(tokens.first, [0, n_tokens]))  # where words begin, and the end
    windows, done = [], 0
    while done < n_tokens:
        last = np.searchsorted(edges, done + (stride if done else size), side="right") - 1
        end = int(edges[max(last, np.searchsorted(edges, done) + 1)])  # at least one word
        begin = min(int(edges[np.searchsorted(edges, end - size)]), done)
        windows.append(Window(start=start + begin, end=start + end, first=start + done))
        done = end
    return windows


def read_story(
    loaded: "LoadedModel",
    story: Story,
    reading: Reading,
    sites: Sequence[Site],
    *,
    mean: npt.NDArray[np.float32],
    seed: int,
    out: npt.NDArray[np.float32] | None = None,
) -> Recording:
    """Read a story; silence is `mean` (n_units,), the calibration's.

    `out` (n_volumes, n_units) is an array that may be overwritten.
    """
    from llm2bids.model.hooks import new_values
    from llm2bids.model.read import read_windows

    design = story_design(story, reading, seed=seed)
    text = tokenize(loaded, story, reading)
    if out is None:
        out = new_values((reading.n_volumes, len(mean)), loaded.device)
    out[:] = mean
    weights = reading.weights(story.words)
    began = time.perf_counter()
    surprisal, entropy = read_windows(
        loaded, text.tokens.token_ids, text.windows, text.lead_in, sites,
        csc_array(weights @ _pooled(text, reading)), out, mean,
        before=reading.at == "before",
    )  # fmt: skip
    seconds = time.perf_counter() - began
    check_finite(out[None], sites, [story.label], 0)
    words = reading.on_images(story.words).assign(
        surprisal=text.tokens.share @ surprisal,  # of all its tokens together
        entropy=entropy[text.tokens.first],  # before them
        n_tokens=np.diff(text.tokens.share.indptr),
    )
    made = provenance(
        loaded, method="read", seed=design.seed, keep_first=False, batch_size=1,
        n_tokens=len(surprisal), seconds=seconds,
    )  # fmt: skip
    return Recording(
        design=design,
        sites=tuple(sites),
        values=out,
        tokens=_token_table(loaded, design, words, text, surprisal, entropy),
        provenance={**made, **_described(loaded, story, reading, text)},
        events=_events(words),
        confounds=_confounds(words, weights, reading),
        start_time=reading.start_time,
    )


def _pooled(text: Text, reading: Reading) -> csr_array:
    """Weigh the tokens of each word, (n_words, n_tokens)."""
    share, first = text.tokens.share, text.tokens.first
    kept, at = np.arange(len(first)), text.tokens.last
    if reading.at == "before":  # what predicts the first word of a pass is the lead-in: a sink
        fresh = [window.start for window in text.windows if window.start == window.first]
        kept, at = np.flatnonzero(~np.isin(first, fresh)), first
    if reading.pool == "last":
        return csr_array((np.ones(len(kept)), (kept, at[kept])), shape=share.shape)
    pooled = csr_array((share > 0).astype(np.float64))
    if reading.pool == "mean":
        pooled.data /= np.repeat(np.diff(pooled.indptr), np.diff(pooled.indptr))
    return pooled


def _events(words: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the words that have a time, on the clock of the images."""
    columns = ["onset", "duration", "trial_type", "word", "surprisal", "entropy", "n_tokens"]
    columns += [name for name in ("spoken_onset", "spoken_duration") if name in words]
    timed = words[columns].dropna(subset=columns[:2] + columns[7:]).reset_index(drop=True)
    return timed.assign(word=timed["word"].str.replace(r"\s+", " ", regex=True)).round(6)


def _confounds(words: pd.DataFrame, weights: csr_array, reading: Reading) -> pd.DataFrame:
    """Put what a word's form brings with it on the clock: it may explain what is no language."""
    lengths = words["word"].str.len().to_numpy(dtype=np.float64)
    confounds = pd.DataFrame(
        {
            "word_surprisal": weights @ words["surprisal"].to_numpy(dtype=np.float64),
            "word_length": weights @ lengths,
        }
    )
    if not reading.per_word:  # else the rate is constant
        counts = weights if reading.resampling == "lanczos" else reading.counts(words)
        confounds.insert(0, "word_rate", counts @ np.ones(len(words)) / reading.t_r)
        confounds.insert(1, "spoken_time", reading.spoken_share(words))
    return confounds.round(6)


def _token_table(
    loaded: "LoadedModel",
    design: RunDesign,
    words: pd.DataFrame,
    text: Text,
    surprisal: npt.NDArray[np.float64],
    entropy: npt.NDArray[np.float64],
) -> pd.DataFrame:
    """Tabulate the tokens of a story, with the columns of `Recording.tokens` and of a story."""
    shares = csc_array(text.tokens.share)
    word = shares.indices[shares.indptr[1:] - 1].astype(np.int64)  # the last, if there are several
    of_token = words.iloc[word].reset_index(drop=True)
    volume = of_token["volume"].astype("Int64")
    return pd.DataFrame(
        {
            "onset": of_token["onset"].astype(float).round(6),
            "duration": of_token["duration"].astype(float).round(6),
            "volume": volume.mask(volume < 0),
            "trial": text.trial,
            "block": text.trial,
            "trial_type": of_token["trial_type"].astype("string"),
            "prompt_id": [design.trials[index].prompt.prompt_id for index in text.trial],
            "position": np.arange(len(word)) - np.searchsorted(text.trial, text.trial),
            "token_id": text.tokens.token_ids,
            "token": decode(loaded, text.tokens.token_ids),
            "surprisal": surprisal,
            "entropy": entropy,
            "prompt_tokens": len(text.lead_in),
            "word": word,
        }
    )


def _described(
    loaded: "LoadedModel", story: Story, reading: Reading, text: Text
) -> dict[str, object]:
    """Say how a story was read, for the sidecar."""
    described: dict[str, object] = {
        "n_tokens": None,  # of a text that was generated
        "number_of_tokens": len(text.trial),
        "number_of_words": len(story.words),
        "stimuli": Path(story.source).name,
        "context": reading.context,
        "stride": reading.stride,
        "lead_in": "".join(decode(loaded, np.asarray(text.lead_in))),
        "pooling": reading.pool,
        "position_of_word": reading.at,
    }
    if reading.per_word:
        return {**described, "clock": "one volume a word"}
    described |= {"anchor": reading.anchor, "resampling": reading.resampling}
    if reading.resampling == "lanczos":
        described |= {"lobes": LOBES, "cutoff": 1 / reading.t_r}
    return described


def check_reading(reading: Reading, story: Story) -> None:
    """Refuse a clock that does not fit a story."""
    if reading.at == "before" and reading.pool != "last":
        raise UsageError(
            f"--at before --pool {reading.pool}: the position before a word is one; expected "
            "--pool last"
        )
    if isinstance(reading.context, int) and reading.stride and reading.stride > reading.context:
        raise UsageError(
            f"--stride {reading.stride}: longer than the window of {reading.context} tokens; "
            "expected at most as many"
        )
    if not isinstance(reading.context, int) and reading.stride is not None:
        raise UsageError("--stride is that of a window: expected --context N with it")
    if reading.per_word:
        if reading.resampling != "lanczos":
            raise UsageError(
                f"--resample {reading.resampling} --per-word: each word is a volume, nothing is "
                "resampled; expected one of the two"
            )
        return
    typical = float(story.words["duration"].median())
    if reading.t_r < typical:
        raise UsageError(
            f"repetition time {reading.t_r:g} s: below a word of {story.source} (median "
            f"{typical:.3g} s), which would fall between volumes; expected a longer one, or one "
            "volume a word (--per-word)"
        )
    last = float(np.nanmax(reading.times(story.words)))
    if last > reading.n_volumes * reading.t_r:
        raise UsageError(
            f"{story.source}: its last word is at {last:.1f} s, the run has {reading.n_volumes} "
            f"volumes of {reading.t_r:g} s ({reading.n_volumes * reading.t_r:.1f} s); expected a "
            "run that is as long as its words, or words on the run's clock (seconds from its first "
            "volume; --select names the event with which the story begins)"
        )
