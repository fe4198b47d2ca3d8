import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.dataset.transcript import COLUMNS, read_transcript, transcript_table, write_transcript
from llm2bids.exceptions import DatasetError
from llm2bids.store.tables import write_table

texts = st.text(max_size=8)


@given(
    tokens=st.lists(texts, min_size=1, max_size=6),
    surprisal=st.floats(0, 60, allow_nan=False, width=32),
)
def test_tokens_table_tokens(tmp_path_factory, tokens, surprisal):
    path = tmp_path_factory.mktemp("tokens") / "a.tsv"
    n = len(tokens)
    table = pd.DataFrame(
        {
            "volume": pd.array([pd.NA, *range(n - 1)], dtype="Int64"),
            "trial": 0,
            "block": 0,
            "trial_type": pd.array([None] * n, dtype="string"),
            "prompt_id": "n/a",
            "position": range(n),
            "token_id": range(n),
            "token": tokens,
            "surprisal": surprisal,
            "entropy": 1.5,
            "prompt_tokens": 3,
        }
    )
    written = transcript_table(table, t_r=0.5)
    write_transcript(path, written)
    read = read_transcript(path)
    assert tuple(read) == COLUMNS
    assert read["token"].tolist() == tokens
    assert read["prompt_id"].tolist() == ["n/a"] * n
    assert read["volume"].tolist() == written["volume"].tolist()
    np.testing.assert_allclose(read["surprisal"], surprisal, rtol=1e-8, atol=1e-12)


def test_damaged_transcripts_are_named(tmp_path):
    path = tmp_path / "a.tsv"
    write_table(path, pd.DataFrame({"onset": [1]}))
    with pytest.raises(DatasetError, match=r"columns trial, .* are missing"):
        read_transcript(path)
    write_table(path, pd.DataFrame({name: ['bad"' if name == "token" else 1] for name in COLUMNS}))
    with pytest.raises(DatasetError, match="not text escaped as in JSON"):
        read_transcript(path)
