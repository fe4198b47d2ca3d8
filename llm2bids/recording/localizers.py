"""Localizers: texts that are read to find the units that answer to language, or to hard sums."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from llm2bids.exceptions import RecordingError, UsageError
from llm2bids.paradigm.seed import derive_generator
from llm2bids.recording.stimuli import read_text
from llm2bids.recording.story import Story, check_story

# 96 sentences of 12 words, in capitals, and 96 lists of nonwords. Each nonword stands for a word,
# the same wherever the word comes back, with as many tokens of SmolLM2's (and GPT-2's kind of)
# tokenizer; the lists are in random order and have as many tokens as their sentences.
LANGLOC = Path(__file__).parents[1] / "paradigm/localizers/langloc.tsv"

IMPORTED = "brainscore-language"
# Localizers by name: our own, and the original one (Fedorenko et al. 2010, J Neurophysiol 104:1177)
# where brainscore-language is installed.
NAMES = ("langloc", "md", IMPORTED)

N_RUNS = 2
WORD_SECONDS, PAUSE_SECONDS = 0.45, 0.6

_ORIGINAL = re.compile(r"langloc_fmri_run(\d)_stim_set(\d)\.csv")


def localizer_stories(name: str, *, seed: int) -> list[Story]:
    """Make the runs of a localizer: items in halves, in random order."""
    if name == IMPORTED:
        return read_langloc(_installed())
    if name == "langloc":
        table = pd.read_csv(LANGLOC, sep="\t", keep_default_na=False)
        items = list(zip(table["item"], table["trial_type"], table["text"], strict=True))
    else:
        items = _sums(seed)
    stories = []
    for run in range(N_RUNS):
        # the two of a pair stand in one run: halves are alike
        mine = [item for item in items if int(item[0][1:]) % N_RUNS == run]
        order = derive_generator(seed, "localizer", name, run).permutation(len(mine))
        stories.append(_story(name, run + 1, [mine[index][1:] for index in order], name))
    return stories


def _sums(seed: int) -> list[tuple[str, str, str]]:
    """Make easy and hard sums, both of numbers of three digits: hundreds, and with carries."""
    rng = derive_generator(seed, "localizer", "md", "sums")
    items = []
    for index in range(1, 97):
        while True:
            first, second = (int(number) for number in rng.integers(101, 500, 2))
            carries = first % 10 + second % 10 > 9 and first // 10 % 10 + second // 10 % 10 > 9
            if carries and first % 100 and second % 100:
                break
        easy = [100 * int(digit) for digit in rng.integers(1, 5, 2)]
        for kind, (a, b) in (("H", (first, second)), ("E", easy)):
            items.append((f"{kind}{index:02d}", kind, f"{a} + {b} = {a + b}"))
    return items


def _story(label: str, run: int, trials: Sequence[tuple[str, str]], source: str) -> Story:
    """Put trials (trial type, text) on the clock: words, then a pause."""
    rows, onset = [], 0.0
    for number, (kind, text) in enumerate(trials):
        for word in text.split():
            rows.append((round(onset, 3), WORD_SECONDS, word, kind, number))
            onset += WORD_SECONDS
        onset += PAUSE_SECONDS
    columns = ["onset", "duration", "word", "trial_type", "sentence"]
    words = pd.DataFrame(rows, columns=columns)
    return check_story(Story(label=label, words=words, source=source, run=run))


def read_langloc(folder: Path) -> list[Story]:
    """Read the original lists, 10 files of 24 sentences and 24 nonword lists: two runs."""
    runs: dict[int, list[tuple[str, str]]] = {}
    for file in sorted(folder.iterdir()):
        if not (match := _ORIGINAL.fullmatch(file.name)):
            continue
        cells = [line.split(",") for line in read_text(file).splitlines() if line.strip()]
        for row in cells[1:] if cells[0][-1].strip() not in ("S", "N") else cells:
            kind, words = row[-1].strip(), [word.strip() for word in row[1:-1]]
            if kind not in ("S", "N") or not all(words):
                raise RecordingError(
                    f"{file}: {','.join(row)[:60]!r}; expected a number, 12 words and S or N"
                )
            runs.setdefault(int(match[1]), []).append((kind, " ".join(words)))
    if not runs:
        raise RecordingError(f"{folder}: no langloc_fmri_run1_stim_set1.csv and its kin in it")
    return [_story("langloc", run, trials, str(folder)) for run, trials in sorted(runs.items())]


def is_langloc(folder: Path) -> bool:
    """Tell whether a folder has the original lists."""
    return folder.is_dir() and any(_ORIGINAL.fullmatch(file.name) for file in folder.iterdir())


def _installed() -> Path:
    """Find the lists of an installed brainscore-language, without importing it."""
    package = importlib.util.find_spec("brainscore_language")
    if package is None or package.origin is None:
        raise UsageError(
            f"{IMPORTED}: not installed; expected `pip install brainscore-language`, or --stimuli "
            "with the folder of the lists (langloc_fmri_run1_stim_set1.csv and its kin)"
        )
    return Path(package.origin).parent / "data" / "fedorenko2010_localization"
