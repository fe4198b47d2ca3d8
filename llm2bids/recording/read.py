"""Reading a story: the model reads words, and their values are put on a scan's clock."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import block_diag, csc_array, csr_array

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.model.units import Site
from llm2bids.paradigm.design import RunDesign, Trial
from llm2bids.paradigm.seed import derive_seed
from llm2bids.paradigm.task import Prompt, Sampling
from llm2bids.recording.batches import check_finite
from llm2bids.recording.record import Recording
from llm2bids.recording.story import Story, join_words, sentence_numbers
from llm2bids.recording.timing import (
    LOBES,
    Resampling,
    spoken_share,
    volume_of,
    volume_weights,
)
from llm2bids.recording.tokens import provenance

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.read import Window
    from llm2bids.model.text import WordTokens

Pool = Literal["last", "mean", "sum"]
At = Literal["word", "before"]
Anchor = Literal["mid", "onset", "end"]

CONDITION = "story"
"""Bank of the texts that are read."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a story is read, and the clock that its values are put on."""

    t_r: float
    n_volumes: int
    start_time: float
    context: str | int  # "story", "sentence", or the tokens of a window
    stride: int | None
    pool: Pool
    at: At
    resampling: Resampling
    anchor: Anchor
    per_word: bool

    def times(self, words: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Time at which each word (n_words,) stands, seconds; NaN where it has none."""
        part = {"onset": 0.0, "mid": 0.5, "end": 1.0}[self.anchor]
        return (words["onset"] + part * words["duration"]).to_numpy(dtype=np.float64)

    def weights(self, words: pd.DataFrame) -> csr_array:
        """Weigh the words of each volume, (n_volumes, n_words)."""
        if self.per_word:
            (known,) = np.nonzero(words["onset"].notna())
            entries = np.ones(len(known)), (np.arange(len(known)), known)
            return csr_array(entries, shape=(self.n_volumes, len(words)))
        return volume_weights(
            self.times(words), self.n_volumes, t_r=self.t_r, start_time=self.start_time,
            resampling=self.resampling,
        )  # fmt: skip


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
class _Text:
    """All tokens of a story, and in which passes they are read."""

    token_ids: npt.NDArray[np.int64]  # (n_tokens,)
    share: csr_array  # (n_words, n_tokens), as in WordTokens
    first: npt.NDArray[np.int64]  # (n_words,)
    last: npt.NDArray[np.int64]  # (n_words,)
    trial: npt.NDArray[np.int64]  # (n_tokens,)
    starts: npt.NDArray[np.int64]  # first token of each context
    fresh: npt.NDArray[np.int64]  # tokens that follow the lead-in at once
    windows: list["Window"]
    lead_in: list[int]


def tokenize(loaded: "LoadedModel", story: Story, reading: Reading) -> _Text:
    """Tokenize a story and cut it into passes; what the model cannot take is refused."""
    from llm2bids.model.text import lead_in, word_tokens

    parts: list[WordTokens] = []
    for words in contexts(story, reading):
        text, places = join_words(story.words["word"].iloc[words])
        parts.append(word_tokens(loaded, text, places, name=story.source))
    lengths = [len(part.token_ids) for part in parts]
    starts = np.cumsum([0, *lengths])
    lead = lead_in(loaded)
    windows: list[Window] = []
    for part, start in zip(parts, starts[:-1], strict=True):
        windows += _windows(part, int(start), reading)
    longest = len(lead) + max(window.end - window.start for window in windows)
    if longest > loaded.max_length:
        raise RecordingError(
            f"{story.source}: {longest} tokens exceed the context of {loaded.name} "
            f"({loaded.max_length} tokens); read it through a window: --context "
            f"{(loaded.max_length - len(lead)) // 2}, or sentence by sentence: --context sentence"
        )
    return _Text(
        token_ids=np.concatenate([part.token_ids for part in parts]),
        share=csr_array(block_diag([part.share for part in parts], format="csr")),
        first=np.concatenate([p.first + s for p, s in zip(parts, starts, strict=False)]),
        last=np.concatenate([p.last + s for p, s in zip(parts, starts, strict=False)]),
        trial=np.repeat(np.arange(len(parts)), lengths),
        starts=starts[:-1],
        fresh=np.array([w.start for w in windows if w.start == w.first], dtype=np.int64),
        windows=windows,
        lead_in=lead,
    )


def _windows(tokens: "WordTokens", start: int, reading: Reading) -> "list[Window]":
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
    on_token: Callable[[int], None] | None = None,
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
        loaded, text.token_ids, text.windows, text.lead_in, sites,
        csc_array(weights @ _pooled(text, reading)), out, mean,
        before=reading.at == "before", on_token=on_token,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    check_finite(out[None], sites, [story.label], 0)
    tokens = _token_table(loaded, design, story, text, reading, surprisal, entropy)
    words = _word_table(story, text, surprisal, entropy)
    made = provenance(
        loaded, method="read", seed=design.seed, keep_first=False, batch_size=1,
        n_tokens=len(text.token_ids), seconds=seconds,
    )  # fmt: skip
    return Recording(
        design=design,
        sites=tuple(sites),
        values=out,
        tokens=tokens,
        provenance={**made, **_described(loaded, story, reading, text)},
        events=_events(words, reading),
        confounds=_confounds(words, weights, reading),
        start_time=reading.start_time,
    )


def _pooled(text: _Text, reading: Reading) -> csr_array:
    """Weigh the tokens of each word, (n_words, n_tokens)."""
    n_words, n_tokens = text.share.shape
    if reading.at == "before":  # what predicts the first word of a pass is the lead-in: a sink
        (kept,) = np.nonzero(~np.isin(text.first, text.fresh))
        return csr_array((np.ones(len(kept)), (kept, text.first[kept])), shape=(n_words, n_tokens))
    if reading.pool == "last":
        entries = np.ones(n_words), (np.arange(n_words), text.last)
        return csr_array(entries, shape=(n_words, n_tokens))
    pooled = csr_array((text.share > 0).astype(np.float64))
    if reading.pool == "mean":
        pooled.data /= np.repeat(np.diff(pooled.indptr), np.diff(pooled.indptr))
    return pooled


def _word_table(
    story: Story,
    text: _Text,
    surprisal: npt.NDArray[np.float64],
    entropy: npt.NDArray[np.float64],
) -> pd.DataFrame:
    """Tabulate the words: surprisal is that of their tokens together, entropy that before them."""
    return story.words.assign(
        surprisal=text.share @ surprisal,
        entropy=entropy[text.first],
        n_tokens=np.diff(text.share.indptr),
    )


def _events(words: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """Tabulate the words that have a time, on the clock of the images."""
    timed = words[words["onset"].notna() & words["duration"].notna()]
    events = timed[
        ["onset", "duration", "trial_type", "word", "surprisal", "entropy", "n_tokens"]
    ].reset_index(drop=True)
    events["word"] = events["word"].str.replace(r"\s+", " ", regex=True)
    if reading.per_word:
        events["spoken_onset"], events["spoken_duration"] = events["onset"], events["duration"]
        events["onset"], events["duration"] = events.index * reading.t_r, reading.t_r
    return events.round(6)


def _confounds(words: pd.DataFrame, weights: csr_array, reading: Reading) -> pd.DataFrame:
    """Put what a word's form brings with it on the clock: it may explain what is no language."""
    if reading.per_word:
        # one word a volume: its rate is constant
        rate = {}
    else:
        counts = weights
        if reading.resampling != "lanczos":
            volume = volume_of(reading.times(words), reading.n_volumes, t_r=reading.t_r)
            (known,) = np.nonzero(volume >= 0)
            entries = np.ones(len(known)), (volume[known], known)
            counts = csr_array(entries, shape=weights.shape)
        rate = {
            "word_rate": counts @ np.ones(len(words)) / reading.t_r,
            "spoken_time": spoken_share(
                words["onset"].to_numpy(float), words["duration"].to_numpy(float),
                reading.n_volumes, t_r=reading.t_r,
            ),
        }  # fmt: skip
    lengths = words["word"].str.len().to_numpy(dtype=np.float64)
    return pd.DataFrame(
        {
            **rate,
            "word_surprisal": weights @ words["surprisal"].to_numpy(dtype=np.float64),
            "word_length": weights @ lengths,
        }
    ).round(6)


def _token_table(
    loaded: "LoadedModel",
    design: RunDesign,
    story: Story,
    text: _Text,
    reading: Reading,
    surprisal: npt.NDArray[np.float64],
    entropy: npt.NDArray[np.float64],
) -> pd.DataFrame:
    """Tabulate the tokens of a story, with the columns of `Recording.tokens` and of a story."""
    from llm2bids.model.text import decode

    shares = csc_array(text.share)
    word = shares.indices[shares.indptr[1:] - 1].astype(np.int64)  # the last, if there are several
    words = story.words
    if reading.per_word:
        timed = words["onset"].notna().to_numpy()
        volume = np.where(timed, np.cumsum(timed) - 1, -1)
        onset = pd.Series(volume * reading.t_r).where(timed)
        duration = pd.Series(reading.t_r, index=onset.index).where(timed)
    else:
        volume = volume_of(reading.times(words), reading.n_volumes, t_r=reading.t_r)
        onset, duration = words["onset"], words["duration"]
    volumes = pd.array(volume[word], dtype="Int64")
    volumes[volume[word] < 0] = pd.NA
    return pd.DataFrame(
        {
            "onset": onset.to_numpy(dtype=float)[word].round(6),
            "duration": duration.to_numpy(dtype=float)[word].round(6),
            "volume": volumes,
            "trial": text.trial,
            "block": text.trial,
            "trial_type": pd.array(words["trial_type"].to_numpy()[word], dtype="string"),
            "prompt_id": [design.trials[index].prompt.prompt_id for index in text.trial],
            "position": np.arange(len(text.token_ids)) - text.starts[text.trial],
            "token_id": text.token_ids,
            "token": decode(loaded, text.token_ids),
            "surprisal": surprisal,
            "entropy": entropy,
            "prompt_tokens": len(text.lead_in),
            "word": word,
        }
    )


def _described(
    loaded: "LoadedModel", story: Story, reading: Reading, text: _Text
) -> dict[str, object]:
    """Say how a story was read, for the sidecar."""
    from llm2bids.model.text import decode

    described: dict[str, object] = {
        "n_tokens": None,  # of a text that was generated
        "number_of_tokens": len(text.token_ids),
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
