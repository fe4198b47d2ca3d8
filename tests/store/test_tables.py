import pytest

from llm2bids.exceptions import DatasetError
from llm2bids.store.tables import read_table


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"a\.tsv: not a readable table"):
        read_table(tmp_path / "a.tsv")
