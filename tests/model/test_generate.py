"""Drawing tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm2bids.model.generate import draw, information, truncate

WEIGHTS = torch.tensor([[0.0, 1.0, 3.0, 0.0, 4.0, 0.0]])


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 1), (0.124, 1), (0.125, 2), (0.49, 2), (0.5, 4), (0.999999, 4), (1.0, 4)],
)
def test_draw_is_the_inverse_of_the_cumulative_distribution(uniform, token):
    assert draw(WEIGHTS, torch.tensor([uniform])).tolist() == [token]


@given(uniform=st.floats(0, 1, exclude_max=True, width=32), seed=st.integers(0, 99))
def test_a_token_of_weight_zero_never_comes(uniform, seed):
    weights = torch.from_numpy(np.random.default_rng(seed).random((1, 50)).astype(np.float32))
    weights[weights < 0.5] = 0
    weights[0, 7] = 1
    token = draw(weights, torch.tensor([uniform]))
    assert weights[0, token].item() > 0


def test_draws_follow_the_distribution():
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20000).astype(np.float32))
    counts = torch.bincount(draw(WEIGHTS.expand(20000, -1).contiguous(), uniforms), minlength=6)
    np.testing.assert_allclose(counts / 20000, WEIGHTS[0] / 8, atol=0.01)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, [0, 1, 2, 3]),
        (2, 1.0, [1, 3]),
        (9, 1.0, [0, 1, 2, 3]),
        (0, 0.39, [1]),
        (0, 0.41, [1, 3]),
        (0, 0.71, [0, 1, 3]),
        (0, 1e-9, [1]),
        (2, 0.99, [1, 3]),
        (3, 0.2, [1]),
    ],
)
def test_truncate(top_k, top_p, kept):
    scores = torch.log(torch.tensor([[0.2, 0.4, 0.1, 0.3]]))
    left = truncate(scores, top_k=top_k, top_p=top_p)[0]
    assert torch.isfinite(left).nonzero()[:, 0].tolist() == kept


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.7), (8, 0.5)])
def test_truncate_as_transformers_does(top_k, top_p):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    scores = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 40)).astype(np.float32))
    theirs = scores
    if top_k:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    assert torch.equal(truncate(scores, top_k=top_k, top_p=top_p), theirs)


def test_information_in_bit():
    log_p = torch.log(torch.tensor([[[0.5, 0.25, 0.25, 0.0]]]))
    surprisal, entropy = information(log_p, torch.tensor([[1]]))
    assert surprisal.tolist() == [[2.0]]
    assert entropy.tolist() == [[1.5]]
