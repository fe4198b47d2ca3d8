"""Choosing tokens so that a run's text does not depend on how it is split into batches.

Each token is drawn by the inverse of its cumulative distribution at a number that belongs to its
prompt and its position, and not from a generator that all prompts of a batch share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm2bids.model.hooks import StepReader
from llm2bids.model.load import LoadedModel
from llm2bids.paradigm.task import Sampling

LOG2 = float(np.log(2.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenTokens:
    """Tokens that a batch of prompts gave."""

    token_ids: npt.NDArray[np.int64]  # each (n_prompts, n_tokens)
    # bit, of the model's own untempered distribution, with the end of the text in it
    surprisal: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]

    @classmethod
    def joined(cls, parts: "Sequence[ChosenTokens]") -> "ChosenTokens":
        """Join the answers of consecutive batches."""
        return cls(
            **{
                field.name: np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )

    def __getitem__(self, prompts: "slice | npt.NDArray[np.int64]") -> "ChosenTokens":
        """Take the answers of some prompts."""
        return ChosenTokens(
            **{field.name: getattr(self, field.name)[prompts] for field in fields(self)}
        )


class Chooser:
    """Chooses each token, notes its surprisal and entropy, and tells the reader the step.

    A logits processor: called once after each forward pass with the raw logits in float32; returns
    scores whose largest is the chosen token, which ``generate`` then takes.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sampling: Sampling,
        uniforms: npt.NDArray[np.float64],
        reader: StepReader,
        first_step: int,
        on_step: Callable[[int], None] | None,
    ) -> None:
        self.sampling = sampling
        self.uniforms = torch.from_numpy(uniforms).float().to(loaded.device)
        self.reader = reader
        self.first_step = first_step
        self.on_step = on_step
        self.step = 0
        self.suppressed = torch.tensor(loaded.end_token_ids, dtype=torch.long).to(loaded.device)
        self.n_known = len(loaded.tokenizer)
        self.token_ids: list[Tensor] = []
        self.surprisal: list[Tensor] = []
        self.entropy: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Choose from raw logits (n_prompts, n_vocabulary), overwritten: 1 at the token, else 0."""
        recorded = self.step - self.first_step
        if recorded >= 0:
            self.reader.close(recorded)
            if self.on_step is not None:
                self.on_step(len(scores))
        log_p = torch.log_softmax(scores, dim=-1)
        token = self._choose(log_p.clone())
        surprisal, entropy = information(log_p[:, None], token[:, None])
        self.token_ids.append(token)
        self.surprisal.append(surprisal[:, 0])
        self.entropy.append(entropy[:, 0])
        self.step += 1
        after = self.step - self.first_step
        self.reader.open(after if after >= 0 and self.step < self.uniforms.shape[1] else None)
        return scores.fill_(0).scatter_(1, token[:, None], 1)

    def answers(self) -> ChosenTokens:
        """Collect what was generated."""
        return ChosenTokens(
            token_ids=torch.stack(self.token_ids, dim=1).cpu().numpy(),
            surprisal=torch.stack(self.surprisal, dim=1).double().cpu().numpy(),
            entropy=torch.stack(self.entropy, dim=1).double().cpu().numpy(),
        )

    def _choose(self, scores: Tensor) -> Tensor:
        """Choose one token for each row; `scores` may be overwritten."""
        # a tokenizer may name an end of text that the model does not have
        scores[:, self.suppressed[self.suppressed < scores.shape[1]]] = -torch.inf
        scores[:, self.n_known :] = -torch.inf  # rows of the vocabulary that stand for no token
        if not self.sampling.do_sample:
            return scores.argmax(dim=-1)
        if self.sampling.temperature != 1:
            scores /= self.sampling.temperature
        scores = truncate(scores, top_k=self.sampling.top_k, top_p=self.sampling.top_p)
        scores -= scores.amax(dim=-1, keepdim=True)
        return draw(scores.exp_(), self.uniforms[:, self.step])


def truncate(scores: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Leave the most probable tokens of (n_prompts, n_vocabulary), ties with the last of top_k too.

    `top_p` keeps the smallest set with this much probability (Holtzman et al. 2020,
    arXiv:1904.09751); others become minus infinity.
    """
    if 0 < top_k < scores.shape[-1]:
        least = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if top_p < 1:
        ordered, order = scores.sort(dim=-1, descending=True, stable=True)
        p = ordered.softmax(dim=-1)
        out = p.cumsum(dim=-1) - p >= top_p
        out[:, 0] = False
        scores = scores.masked_fill(torch.zeros_like(out).scatter_(1, order, out), -torch.inf)
    return scores


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token of each row of weights (n_prompts, n_vocabulary) by the inverse cumulative."""
    cumulated = weights.cumsum(dim=-1)
    total = cumulated[:, -1:]
    # strictly below the total, so that no token of weight 0 at the end is taken
    points = torch.minimum(uniforms[:, None] * total, total * (1 - 2**-23))
    tokens = torch.searchsorted(cumulated, points, right=True)
    return tokens.clamp_(max=weights.shape[-1] - 1)[:, 0]


def information(log_p: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Surprisal of tokens (n_prompts, n_tokens) and entropy of their distributions, bit."""
    surprisal = -log_p.gather(2, tokens[..., None])[..., 0] / LOG2
    # a third of the time of torch.special.entr, which takes the logarithm once more; what cannot
    # come has probability 0 and adds nothing, where 0 times minus infinity would be no number
    p_log_p = log_p.exp().mul_(log_p.clamp(min=torch.finfo(log_p.dtype).min))
    return surprisal, -p_log_p.sum(dim=-1) / LOG2
