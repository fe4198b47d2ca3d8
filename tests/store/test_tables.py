import pandas as pd
import pytest

from llm2bids.exceptions import DatasetError
from llm2bids.store.tables import read_table, write_table


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"a\.tsv: not a readable table"):
        read_table(tmp_path / "a.tsv")


def test_a_table_that_cannot_be_put_in_place_leaves_nothing(tmp_path):
    folder = tmp_path / "a.tsv"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as raised:
        write_table(folder, pd.DataFrame({"a": [1]}))
    assert raised.value.filename == str(folder)
    assert list(tmp_path.iterdir()) == [folder]
