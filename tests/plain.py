"""The standard that recordings are held to: hooks on a plain forward pass, and nothing of ours."""

from typing import Any

import numpy as np
import numpy.typing as npt

FUNCTIONS = {
    "softmax": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "sqrtsoftplus": lambda x: (1 + x.exp()).log().sqrt(),
}
"""What routers make of their scores, (..., n_experts), written out."""


def plain_values(model: Any, tokens: list[int], sites: Any) -> npt.NDArray[np.float32]:
    """Outputs of some modules over one text, (n_tokens, n_units), without mask, cache or batch.

    The axis of tokens is the one of the text's length; all others are units. Of a router, the
    probabilities that its scores come to.
    """
    import torch

    outputs = {}

    def keep(site: Any) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            parts = [output] if torch.is_tensor(output) else list(_parts(output))
            first = parts[site.scores.index if site.scores else 0]
            if site.scores is not None:
                first = FUNCTIONS[site.scores.function](first)
            outputs[site.name] = first.clone()  # some models change it in place afterwards

        return hook

    handles = [model.get_submodule(site.name).register_forward_hook(keep(site)) for site in sites]
    with torch.no_grad():
        model(input_ids=torch.tensor([tokens]), use_cache=False)
    for handle in handles:
        handle.remove()
    columns = []
    for site in sites:
        output = outputs[site.name]
        sizes = (len(tokens), -(-len(tokens) // 8) * 8)  # Reformer fills texts up to whole chunks
        axis = next(axis for axis, size in enumerate(output.shape) if size in sizes)
        output = output.movedim(axis, 0)[: len(tokens)]
        columns.append(output.reshape(len(tokens), site.width).float())
    return torch.cat(columns, dim=1).numpy()


def _parts(output: Any) -> Any:
    return output.values() if hasattr(output, "values") else output


def site_errors(loaded: Any, sites: Any, recording: Any) -> npt.NDArray[np.float64]:
    """Largest difference of each site from plain values, as a share of its largest, (n_sites,)."""
    from llm2bids.model.tokenizer import encode

    errors, largest = np.zeros(len(sites)), np.zeros(len(sites))
    starts = np.cumsum([0, *[site.width for site in sites][:-1]])
    for index, rows in recording.tokens.groupby("trial"):
        prompt = encode(loaded, recording.design.trials[index].prompt.text)
        text = [*prompt, *rows["token_id"]][:-1]
        plain = plain_values(loaded.model, text, sites)[len(prompt) :]
        own = recording.values[rows["volume"].dropna().astype(int)]
        for worst, values in ((errors, own - plain), (largest, plain)):
            worst[:] = np.maximum(worst, np.maximum.reduceat(np.abs(values).max(axis=0), starts))
    return errors / np.maximum(largest, np.finfo(np.float32).tiny)
