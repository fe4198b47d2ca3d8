"""Generating the answers of a batch of prompts, and reading given ones in one pass.

``model.generate`` runs the loop, so every architecture's cache and positions are handled by its own
code. Each token is drawn by the inverse of its cumulative distribution at a number that belongs to
its prompt and its position, and not from a generator that all prompts of a batch share: a run's
text does not depend on how it is split into batches.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llm2bids.model.hooks import (
    StepReader,
    contiguous_head,
    forward_errors,
    hooked,
    new_values,
    position_reader,
)
from llm2bids.model.load import LoadedModel
from llm2bids.model.units import Site
from llm2bids.paradigm.task import Sampling

LOG2 = float(np.log(2.0))

Values = npt.NDArray[np.float32]


class ChosenTokens(NamedTuple):
    """Tokens that a batch of prompts gave."""

    token_ids: npt.NDArray[np.int64]  # each (n_prompts, n_tokens)
    # bit, of the model's own untempered distribution, with the end of the text in it
    surprisal: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]

    @classmethod
    def joined(cls, parts: "Sequence[ChosenTokens]") -> "ChosenTokens":
        """Join the answers of consecutive batches."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def of(self, prompts: "slice | npt.NDArray[np.int64]") -> "ChosenTokens":
        """Take the answers of some prompts."""
        token_ids, surprisal, entropy = self
        return ChosenTokens(token_ids[prompts], surprisal[prompts], entropy[prompts])


@dataclass(eq=False)
class Chooser:
    """Chooses each token, notes its surprisal and entropy, and tells the reader the step.

    A logits processor: called once after each forward pass with the raw logits in float32; returns
    scores whose largest is the chosen token, which ``generate`` then takes.
    """

    loaded: LoadedModel
    sampling: Sampling
    uniforms: npt.NDArray[np.float64]
    reader: StepReader
    first_step: int
    on_step: Callable[[int], None] | None

    def __post_init__(self) -> None:
        device = self.loaded.device
        self.numbers = torch.from_numpy(self.uniforms).float().to(device)
        self.ends = torch.tensor(self.loaded.end_token_ids, dtype=torch.long).to(device)
        self.n_known = len(self.loaded.tokenizer)
        self.chosen: list[tuple[Tensor, Tensor, Tensor]] = []  # token, surprisal, entropy

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Choose from raw logits (n_prompts, n_vocabulary), overwritten: 1 at the token, else 0."""
        step = len(self.chosen)
        if step >= self.first_step:
            self.reader.close(step - self.first_step)
            if self.on_step is not None:
                self.on_step(len(scores))
        log_p = torch.log_softmax(scores, dim=-1)
        token = self._choose(log_p.clone(), step)
        surprisal, entropy = information(log_p[:, None], token[:, None])
        self.chosen.append((token, surprisal[:, 0], entropy[:, 0]))
        after = step + 1 - self.first_step
        self.reader.open(after if after >= 0 and step + 1 < self.numbers.shape[1] else None)
        return scores.fill_(0).scatter_(1, token[:, None], 1)

    def answers(self) -> ChosenTokens:
        """Collect what was generated."""
        token_ids, *bits = (torch.stack(c, dim=1) for c in zip(*self.chosen, strict=True))
        surprisal, entropy = (each.double().cpu().numpy() for each in bits)
        return ChosenTokens(token_ids=token_ids.cpu().numpy(), surprisal=surprisal, entropy=entropy)

    def _choose(self, scores: Tensor, step: int) -> Tensor:
        """Choose one token for each row; `scores` may be overwritten."""
        # a tokenizer may name an end of text that the model does not have
        scores[:, self.ends[self.ends < scores.shape[1]]] = -torch.inf
        scores[:, self.n_known :] = -torch.inf  # rows of the vocabulary that stand for no token
        if not self.sampling.do_sample:
            return scores.argmax(dim=-1)
        if self.sampling.temperature != 1:
            scores /= self.sampling.temperature
        scores = truncate(scores, top_k=self.sampling.top_k, top_p=self.sampling.top_p)
        scores -= scores.amax(dim=-1, keepdim=True)
        return draw(scores.exp_(), self.numbers[:, step])


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


def generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    out: Values | None = None,
    *,
    sampling: Sampling,
    uniforms: npt.NDArray[np.float64],
    first_step: int = 1,
    on_step: Callable[[int], None] | None = None,
) -> tuple[ChosenTokens, Values]:
    """Generate answers as `uniforms` (n_prompts, n_tokens) choose them.

    Row ``i`` of the second axis of the values (n_prompts, n_steps, n_units), which are written to
    `out` if there is one, has the outputs at the position that produces token ``first_step + i``;
    `on_step` is told the prompts of each step.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    config = GenerationConfig(max_new_tokens=uniforms.shape[1], do_sample=False)

    def generate(rows: list[int], part: Values) -> ChosenTokens:
        token_ids, mask = padded([prompts[row] for row in rows], loaded, left=True)
        reader = StepReader(sites, part, device=loaded.device)
        chooser = Chooser(loaded, sampling, uniforms[rows], reader, first_step, on_step)
        with (
            forward_errors(loaded),
            hooked(loaded.model, sites, reader.hook),
            contiguous_head(loaded.model),
            torch.no_grad(),
        ):
            reader.open(0 if first_step == 0 else None)
            loaded.model.generate(
                token_ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([chooser]),
            )
            reader.wait()
            return chooser.answers()

    shape = len(prompts), uniforms.shape[1] - first_step, sum(site.width for site in sites)
    return _in_groups(loaded, prompts, shape, out, generate)


def read_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    sites: Sequence[Site],
    out: Values | None = None,
    *,
    first_step: int = 1,
    masked: bool = True,
) -> tuple[ChosenTokens, Values]:
    """Read given answers, all of one length, in one forward pass (teacher forcing).

    Values (n_prompts, n_tokens - first_step, n_units) are those of :func:`generate_batch`. One text
    without a mask is a plain forward pass: the standard that the others are held to.
    """

    def read(rows: list[int], part: Values) -> ChosenTokens:
        chosen = np.array([answers[row] for row in rows], dtype=np.int64)
        fed = [[*prompts[row], *answers[row][:-1]] for row in rows]
        starts = np.array([len(prompts[row]) - 1 for row in rows], dtype=np.int64)
        positions = starts[:, None] + np.arange(chosen.shape[1])
        reader = position_reader(sites, part, positions[:, first_step:], device=loaded.device)
        with forward_errors(loaded), hooked(loaded.model, sites, reader), torch.no_grad():
            _, _, logits = text_logits(loaded, fed, masked=masked)
            logits = logits[torch.arange(len(fed))[:, None], torch.from_numpy(positions)]
            log_p = torch.log_softmax(logits.float(), dim=-1)
            bits = information(log_p, torch.from_numpy(chosen).to(log_p.device))
            surprisal, entropy = (each.double().cpu().numpy() for each in bits)
        return ChosenTokens(token_ids=chosen, surprisal=surprisal, entropy=entropy)

    shape = len(prompts), len(answers[0]) - first_step, sum(site.width for site in sites)
    return _in_groups(loaded, prompts, shape, out, read)


def _in_groups(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    shape: tuple[int, int, int],
    out: Values | None,
    work: Callable[[list[int], Values], ChosenTokens],
) -> tuple[ChosenTokens, Values]:
    """Work on the prompts that may run together: all, those of one length, or one by one."""
    values = new_values(shape, loaded.device) if out is None else out
    groups = together(loaded, prompts, range(len(prompts)))
    if len(groups) == 1:
        return work(list(range(len(prompts))), values), values
    parts = []
    for rows in groups:
        part = new_values((len(rows), *shape[1:]), loaded.device)
        parts.append(work(rows, part))
        values[rows] = part
    return ChosenTokens.joined(parts).of(np.argsort(np.concatenate(groups))), values


def together(
    loaded: LoadedModel, texts: Sequence[Sequence[int]], rows: Iterable[int]
) -> list[list[int]]:
    """Sort texts, by their numbers, into groups that may run together."""
    groups: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        groups[{"padded": 0, "equal": len(texts[row]), "single": row}[loaded.batching]].append(row)
    return list(groups.values())


def text_logits(
    loaded: LoadedModel, texts: Sequence[Sequence[int]], *, masked: bool | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Read texts that may run together: token ids, mask, logits (n_texts, n_tokens, n_vocabulary).

    They are padded on the right: earlier positions do not see it. Texts that run one by one need
    no mask.
    """
    token_ids, mask = padded(texts, loaded, left=False)
    masked = loaded.batching != "single" if masked is None else masked
    others = {"attention_mask": mask} if masked else {}
    return token_ids, mask, loaded.model(input_ids=token_ids, use_cache=False, **others).logits


def padded(
    texts: Sequence[Sequence[int]], loaded: LoadedModel, *, left: bool
) -> tuple[Tensor, Tensor]:
    """Fill up texts to one length: token ids and mask, each (n_texts, longest)."""
    side = "left" if left else "right"
    filler = loaded.pad_token_id if loaded.pad_token_id < loaded.n_vocabulary else 0
    rows = [torch.tensor(list(text), dtype=torch.long) for text in texts]
    token_ids = pad_sequence(rows, batch_first=True, padding_value=filler, padding_side=side)
    mask = pad_sequence(list(map(torch.ones_like, rows)), batch_first=True, padding_side=side)
    return token_ids.to(loaded.device), mask.to(loaded.device)
