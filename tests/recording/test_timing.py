"""Times of words and volumes, exactly."""

import numpy as np
import pandas as pd
import pytest

from llm2bids.recording.timing import Reading, lanczos


def reading(n_volumes, *, t_r=1.5, start_time=0.75, resampling="lanczos"):
    return Reading(
        t_r=t_r, n_volumes=n_volumes, start_time=start_time, context="story", stride=None,
        pool="last", at="word", resampling=resampling, anchor="onset", per_word=False,
    )  # fmt: skip


def words(onset, duration=0.0):
    return pd.DataFrame({"onset": onset, "duration": duration})


def kernel(distance):
    """The Huth lab's lanczosfun with window 3, evaluated one by one."""
    if distance == 0:
        return 1.0
    if abs(distance) >= 3:
        return 0.0
    x = np.pi * distance
    return 3 * np.sin(x) * np.sin(x / 3) / x**2


@pytest.mark.parametrize("time", [0.0, 0.75, 3.1, 7.4999, 17.0])
@pytest.mark.parametrize(("t_r", "start_time"), [(1.5, 0.75), (2.0, 0.0)])
def test_a_word_alone_is_the_kernel_at_its_time(time, t_r, start_time):
    weights = reading(12, t_r=t_r, start_time=start_time).weights(words([time]))
    expected = [kernel((v * t_r + start_time - time) / t_r) for v in range(12)]
    np.testing.assert_allclose(weights.toarray()[:, 0], expected, atol=1e-12)


def test_the_kernel_outside_its_lobes_is_zero():
    assert lanczos(np.array([-3.0, 3.0, 5.5])).tolist() == [0.0, 0.0, 0.0]


def test_words_without_a_time_weigh_nothing():
    for resampling in ("lanczos", "average", "none"):
        weights = reading(5, resampling=resampling).weights(words([1.0, np.nan, 4.2]))
        assert weights.shape == (5, 3) and weights.toarray()[:, 1].tolist() == [0.0] * 5


def test_average_and_last_word():
    times = words([0.2, 0.9, 1.4, 4.6, 99.0])
    average = reading(4, resampling="average").weights(times).toarray()
    third = 1 / 3
    assert average.tolist() == [
        [third, third, third, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0],
    ]  # fmt: skip
    last = reading(4, resampling="none").weights(times).toarray()
    assert last.tolist() == [[0, 0, 1, 0, 0], [0] * 5, [0] * 5, [0, 0, 0, 1, 0]]


def test_volumes_and_spoken_time():
    placed = reading(4).on_images(words([0.0, 1.5, 2.9999, 6.0, np.nan]))
    assert placed["volume"].tolist() == [0, 1, 1, -1, -1]
    share = reading(3, t_r=1.0).spoken_share(words([0.5, 1.25], 0.5))
    np.testing.assert_allclose(share, [0.5, 0.5, 0])
    share = reading(3, t_r=1.0).spoken_share(words([0.5, 1.75], 0.5))
    np.testing.assert_allclose(share, [0.5, 0.25, 0.25])
