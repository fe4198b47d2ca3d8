"""The shipped banks keep their rules; ``scripts/banks.py`` checks the lengths in tokens too."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from llm2bids.paradigm.prompts import BANKS_FOLDER, read_bank

BANKS = sorted(BANKS_FOLDER.glob("*.tsv"))
SCRIPT = Path(__file__).parents[2] / "scripts" / "banks.py"
OWN_NAMES = re.compile(r"political scien|medical imag|palae?ontolog|archa?eolog|patholog", re.I)


def test_every_task_has_a_bank():
    assert [file.stem for file in BANKS] == [
        "archeology",
        "medicalimaging",
        "offtopic",
        "paleontology",
        "pathology",
        "politicalscience",
        "randomstrings",
    ]


@pytest.mark.parametrize("file", BANKS, ids=lambda file: file.stem)
def test_a_bank_is_large_and_varied_and_names_no_topic(file):
    bank = read_bank(file)
    assert len(bank) >= (800 if file.stem == "offtopic" else 128)
    assert {prompt.condition for prompt in bank} == {file.stem}
    assert not [prompt.text for prompt in bank if OWN_NAMES.search(prompt.text)]
    openings = Counter(prompt.text.split()[0].casefold() for prompt in bank)
    assert openings.most_common(1)[0][1] <= 0.15 * len(bank)


@pytest.mark.parametrize("file", BANKS, ids=lambda file: file.stem)
def test_no_two_prompts_of_a_bank_are_nearly_the_same(file):
    texts = [prompt.text for prompt in read_bank(file)]
    vectorizer = (
        TfidfVectorizer(analyzer="char", ngram_range=(3, 3), lowercase=False)
        if file.stem == "randomstrings"
        else TfidfVectorizer()
    )
    vectors = vectorizer.fit_transform(texts)
    similarity = vectors @ vectors.T
    similarity.setdiag(0)
    assert similarity.max() < 0.6


@pytest.mark.slow
def test_the_script_finds_all_rules_kept():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("all rules hold\n"), done.stderr
    assert done.returncode == 0
