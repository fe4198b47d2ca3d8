"""What a run is said to weigh against what it weighs."""

from dataclasses import replace

import pytest

from llm2bids.dataset.volumes import MARGIN, run_size
from llm2bids.model.units import Site
from tests.synthetic import FOSSILS

# wide enough that volumes, not small files, decide
WIDE = replace(
    FOSSILS,
    sites=tuple(
        Site(name=f"model.layers.{n}.mlp", layer=n, role="mlp", width=1536, n_heads=None)
        for n in range(6)
    ),
    planted={"fossils": 7, "minerals": 1600},
    constant_unit=None,
)


@pytest.mark.parametrize("spread", [1.0, 2.5])
@pytest.mark.parametrize("gain", [100, 500])
@pytest.mark.parametrize(
    "settings", [{}, {"compress": False}, {"volume_dtype": "float32"}, {"hrf_series": "glover"}]
)
def test_a_run_weighs_what_it_is_said_to_weigh(settings, gain, spread, tmp_path):
    experiment = replace(WIDE, counts_per_sd=gain)
    root = tmp_path / "dataset"
    design = experiment.make_design()
    recording = experiment.make_recording(design)
    mean = experiment.make_calibration().mean
    recording = replace(recording, values=(recording.values - mean) * spread + mean)
    with experiment.create(root, **settings) as writer:
        before = weight(root)
        writer.write_run(recording, t_r=experiment.t_r)
        used = weight(root) - before
        size = run_size(writer.dataset.space, writer.dataset.settings, counts_per_sd=gain)
    said = size.of(design.n_volumes)
    assert used < MARGIN * said
    if spread == 1:
        assert used == pytest.approx(said, rel=0.1)


def weight(root):
    """Bytes of all files, hard links once."""
    sizes = {path.stat().st_ino: path.stat().st_size for path in root.rglob("*") if path.is_file()}
    return sum(sizes.values())
