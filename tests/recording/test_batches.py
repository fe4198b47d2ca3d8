"""Arrays in turn, in memory or in a scratch file."""

import numpy as np
import pytest

from llm2bids.model.sites import find_sites
from llm2bids.recording.batches import RunBuffers, mapped_values
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_run, replay_run


def test_two_arrays_in_turn(tmp_path):
    buffers = RunBuffers(tmp_path, "cpu")
    first, second = buffers.take(5, 7), buffers.take(5, 7)
    first[:], second[:] = 1, 2
    assert np.shares_memory(buffers.take(3, 7), first)
    assert (first == 1).all()
    assert buffers.take(6, 7).shape == (6, 7)  # larger: a new one
    assert not list(tmp_path.iterdir())


def test_long_runs_lie_in_a_file_without_a_name(tmp_path):
    folder = tmp_path / "new"
    values = RunBuffers(folder, "cpu", largest=4 * 5 * 7 - 1).take(5, 7)
    values[3, 2] = 4.5
    assert values.sum() == 4.5
    assert values.flags.writeable
    assert values.flags.c_contiguous
    assert not list(folder.iterdir())


def test_a_full_disk_is_found_at_once(tmp_path):
    with pytest.raises(OSError, match=r"space|large|Errno"):
        mapped_values(1 << 30, 1 << 20, tmp_path)  # 4 PB


@pytest.mark.parametrize("mapped", [False, True])
def test_values_do_not_depend_on_the_array(mapped, tiny_loaded, tmp_path):
    loaded = tiny_loaded("llama")
    sites = find_sites(loaded).sites
    design = draw_scan(n_participants=1, prompts_per_block=2, tokens_per_prompt=3).designs[0]
    n_units = sum(site.width for site in sites)
    plain = record_run(loaded, design, sites)
    buffers = RunBuffers(tmp_path, "cpu", largest=0 if mapped else 1 << 30)
    out = buffers.take(design.n_volumes, n_units)
    out[:] = np.nan
    recorded = record_run(loaded, design, sites, out=out)
    assert np.shares_memory(recorded.values, out)
    np.testing.assert_array_equal(recorded.values, plain.values)
    tokens = recorded.tokens["token_id"].to_numpy().reshape(len(design.trials), -1).tolist()
    again = buffers.take(design.n_volumes, n_units)
    replayed = replay_run(loaded, design, sites, tokens, out=again)
    assert np.shares_memory(replayed.values, again)
    np.testing.assert_allclose(replayed.values, plain.values, rtol=1e-4, atol=1e-4)
