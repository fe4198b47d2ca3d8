import pytest

from llm2bids.exceptions import SpaceError
from llm2bids.space.definition import COLUMNS, sites_from_table


def edited(space, row, **cells):
    table = space.unit_table()
    for column, cell in cells.items():
        table[column] = table[column].astype(object)
        table.loc[row, column] = cell
    return table


def test_columns_are_those_of_the_contract(space):
    assert tuple(space.unit_table().columns) == COLUMNS


@pytest.mark.parametrize(
    ("row", "cells", "message"),
    [
        (20, {"i": "x"}, "column i, row 21 is 'x'; expected a whole number"),
        (20, {"j": 2.5}, "column j, row 21 is 2.5"),
        (20, {"k": -1}, "column k, row 21 is -1"),
        (20, {"k": None}, "column k, row 21"),
        (3, {"unit": 4}, "units of module model.embed_tokens .* are not 0, 1, 2"),
        (20, {"layer": 2}, "module model.layers.0 has more than one layer or role"),
        (20, {"role": "other"}, "module model.layers.0 has more than one layer or role"),
        (27, {"head": 3}, "heads of module model.layers.0.self_attn.q_proj are not equal"),
        (27, {"head": 99}, "heads of module model.layers.0.self_attn.q_proj are not equal"),
        (5, {"address": "model.norm[5]"}, "row 6 has address 'model.norm.5.'"),
    ],
)
def test_a_table_that_is_no_bijection_is_refused(space, row, cells, message):
    with pytest.raises(SpaceError, match=message):
        sites_from_table(edited(space, row, **cells))


def test_a_shared_voxel_is_refused_with_both_units(space):
    table = space.unit_table()
    table.loc[7, ["i", "j", "k"]] = table.loc[2, ["i", "j", "k"]]
    with pytest.raises(
        SpaceError, match=r"model.embed_tokens\[2\] and model.embed_tokens\[7\] share"
    ):
        sites_from_table(table)


def test_missing_columns_and_rows_are_refused(space):
    table = space.unit_table()
    with pytest.raises(SpaceError, match=r"lacks column\(s\) head, k"):
        sites_from_table(table.drop(columns=["head", "k"]))
    with pytest.raises(SpaceError, match="no rows"):
        sites_from_table(table.iloc[:0])
    with pytest.raises(SpaceError, match=r"model.layers.0.* are not 0, 1, 2"):
        sites_from_table(table.drop(index=20).reset_index(drop=True))


def test_shuffled_rows_are_refused(space):
    table = space.unit_table().sample(frac=1, random_state=3)
    with pytest.raises(SpaceError, match="keep the rows in their order"):
        sites_from_table(table)


def test_a_module_in_two_places_is_refused(space):
    table = space.unit_table()
    table["module"] = table["module"].replace("model.norm", "model.embed_tokens")
    with pytest.raises(SpaceError, match=r"rows of module model.embed_tokens are not next"):
        sites_from_table(table)
