import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.dataset.locate import locate
from llm2bids.exceptions import NetworkError
from llm2bids.inference.provenance import Provenance
from llm2bids.model.units import Site
from llm2bids.network.network import UNIT_COLUMNS, Network, load_network, make_network
from llm2bids.space.arrange import build_space
from llm2bids.space.header import read_fingerprint
from llm2bids.space.stat_map import select_units


def build(weights="0"):
    heads = {"n_heads": 3, "head_size": 4}
    sites = [
        Site(name="embed", layer=None, role="embed", width=9),
        Site(name="layers.0.q", layer=0, role="q", width=12, **heads),
        Site(name="layers.0.act", layer=0, role="act", width=29),
        Site(name="layers.1.act", layer=1, role="act", width=29),
    ]
    return build_space(sites, label="Tiny", model_name="tiny", weights_sha256=weights * 64)


@pytest.fixture(scope="module")
def space():
    return build()


def image(space, values):
    return nib.Nifti1Image(space.to_grid(np.asarray(values, dtype=np.float32)), space.affine)


def make(space, label, found, **options):
    values = np.zeros(space.n_units)
    values[list(found)] = list(found.values())
    provenance = Provenance.of(participants=[label], prompts=[f"{label}1", f"{label}2"])
    units = select_units(values, **{"threshold": 0.5, **options})
    statistics = {"d": values[units], "t": 2 * values[units]}
    return make_network(
        space, units, statistics, label=label, provenance=provenance, criterion="|d| > 0.5"
    )


@pytest.fixture
def tea(space):
    return make(space, "tea", {3: 1.5, 15: -2.5, 40: 0.75, 70: 0.25})


@pytest.fixture
def milk(space):
    return make(space, "milk", {15: 3.5, 40: -1.25, 71: 0.875})


def test_units_are_ranked_by_the_size_of_the_first_map(space, tea):
    assert tea.table["address"].tolist() == [space.address_of(unit) for unit in (15, 3, 40)]
    assert tea.statistics == ("d", "t")
    assert tea.table["d"].tolist() == [-2.5, 1.5, 0.75]
    assert tea.table["t"].tolist() == [-5, 3, 1.5]
    assert tea.units(space).tolist() == [15, 3, 40]
    assert tea.criterion == "|d| > 0.5"
    assert len(tea) == 3
    assert "layers.0.q[6]" in tea
    assert "layers.0.q[7]" not in tea
    assert repr(tea) == "Network(tea, 3 units of space Tiny)"


def test_sets(space, tea, milk):
    def units(network):
        return network.units(space).tolist()

    assert units(tea & milk) == [15, 40]
    assert units(tea | milk) == [15, 3, 40, 71]
    assert units(tea - milk) == [3]
    assert units(milk - tea) == [71]
    assert units(tea ^ milk) == [3, 71]
    assert (tea & milk).table["d"].tolist() == [-2.5, 0.75]
    assert (milk & tea).table["d"].tolist() == [3.5, -1.25]
    assert (tea | milk).table["d"].tolist() == [-2.5, 1.5, 0.75, 0.875]
    assert (tea & milk).label == "(tea & milk)"
    assert (tea & milk).provenance.participants == {"tea", "milk"}
    assert (tea & milk).criterion == "(|d| > 0.5) & (|d| > 0.5)"
    assert units((tea - milk) | (milk - tea)) == units(tea ^ milk)
    assert len(tea - tea) == 0
    assert units((tea - tea) | milk) == units(milk)


def test_networks_of_other_spaces_are_refused(tea):
    other = make(build("1"), "milk", {3: 4})
    for combine in (Network.__and__, Network.__or__, Network.__sub__, Network.__xor__):
        with pytest.raises(NetworkError, match=r"networks tea .* and milk .* do not name the same"):
            combine(tea, other)
    with pytest.raises(NetworkError, match="network tea belongs to space Tiny with fingerprint"):
        tea.units(build("1"))


def test_the_image_and_back(space, tea):
    img = tea.to_img(space, statistic="d")
    assert img.get_data_dtype() == np.float32
    assert read_fingerprint(img.header) == tea.fingerprint[:16]
    table = locate(img, space, threshold=0)
    pd.testing.assert_frame_equal(table.rename(columns={"value": "d"}), tea.table.drop(columns="t"))
    binary = tea.to_img(space)
    assert binary.get_data_dtype() == np.uint8
    assert np.flatnonzero(space.to_units(binary)).tolist() == [3, 15, 40]
    with pytest.raises(NetworkError, match="no statistic 'z'; it has d, t"):
        tea.to_img(space, statistic="z")


def test_the_summary_is_of_the_first_statistic(space, tea):
    summary = tea.summary(space)
    assert summary["role"].tolist() == ["embed", "q", "act"]
    assert summary["peak"].tolist() == [1.5, -2.5, 0.75]
    with pytest.raises(NetworkError, match="belongs to space"):
        tea.summary(build("1"))


def test_save_and_load(space, tea, tmp_path):
    table, description = tea.save(tmp_path / "new" / "tea.tsv")
    assert tea.save(str(table)) == (table, description)
    again = load_network(str(table))
    pd.testing.assert_frame_equal(again.table, tea.table)
    for name in ("label", "space_label", "fingerprint", "provenance", "criterion"):
        assert getattr(again, name) == getattr(tea, name)
    assert description == tmp_path / "new" / "tea.json"
    assert (again & tea).units(space).tolist() == tea.units(space).tolist()


def test_an_empty_network_is_saved_too(space, tea, tmp_path):
    table, _ = (tea - tea).save(tmp_path / "none.tsv")
    again = load_network(table)
    assert len(again) == 0
    assert again.statistics == ("d", "t")
    assert len(again | tea) == 3
    assert again.to_img(space).get_fdata().sum() == 0


def test_damaged_files_are_refused(tea, tmp_path):
    table, description = tea.save(tmp_path / "tea.tsv")
    with pytest.raises(NetworkError, match=r"ends with \.tsv"):
        tea.save(tmp_path / "tea.csv")
    with pytest.raises(NetworkError, match="cannot be read as a network"):
        load_network(tmp_path / "other.tsv")
    about = json.loads(description.read_text())
    text = table.read_text()
    table.write_text(text.replace("unit\t", "Unit\t"))
    description.write_text(json.dumps({**about, "Label": "x"} | {"Space": "y"}))
    with pytest.raises(NetworkError, match="lacks unit"):
        load_network(table)
    table.write_text(text.replace("1.5", "much"))
    with pytest.raises(NetworkError, match="expected numbers"):
        load_network(table)
    table.write_text(text)
    for content, message in [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "lacks Label"),
        ("{}", "lacks Label"),
        (json.dumps({**about, "Provenance": 3}), "lists of names"),
        (json.dumps({**about, "Provenance": {"prompts": "tea"}}), "names .* are lists"),
    ]:
        description.write_text(content)
        with pytest.raises(NetworkError, match=message):
            load_network(table)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("embed[99]\tembed\t99", "unit embed\\[99\\] is not in space Tiny"),
        ("gone[2]\tgone\t2", "unit gone\\[2\\] is not in space Tiny"),
        ("embed[-1]\tembed\t-1", "column unit, row 1 is .*expected a whole number from 0"),
        ("embed[1]\tembed\t1.5", "column unit, row 1 is .*expected a whole number from 0"),
        ("embed[3]\tembed\t4", "address embed\\[3\\] is there twice, or is not that of its mod"),
    ],
)
def test_a_row_that_names_no_unit_is_refused(space, tmp_path, row, message):
    """Another unit would be drawn, edited or compared in its place."""
    address, module, unit = row.split("\t")
    table, _ = make(space, "one", {0: 1.0}).save(tmp_path / "one.tsv")
    cells = pd.read_csv(table, sep="\t", dtype="str", keep_default_na=False)
    cells = cells.assign(address=address, module=module, unit=unit)
    cells.to_csv(table, sep="\t", index=False)
    with pytest.raises(NetworkError, match=message):
        load_network(table).units(space)


def test_a_unit_that_is_there_twice_is_refused(tea, tmp_path):
    table, _ = tea.save(tmp_path / "tea.tsv")
    header, *rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join([header, *rows, rows[1]]))
    with pytest.raises(NetworkError, match=r"address embed\[3\] is there twice"):
        load_network(table)


def test_columns_begin_with_the_unit(tea):
    assert tuple(tea.table.columns) == (*UNIT_COLUMNS, "d", "t")
