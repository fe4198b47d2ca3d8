"""Routers of a mixture of experts: which function makes probabilities of their scores.

Most routers return scores (logits); the model makes probabilities of them inside the router or
after it. A forward pass is watched for the function that takes the scores of all experts, or of
those that were chosen, so that no list of architectures is needed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llm2bids.model.units import Scores

# Functions of scores (..., n_experts), by the names that configurations give them.
PROBABILITIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: scores.float().softmax(dim=-1),
    "sigmoid": lambda scores: scores.float().sigmoid(),
    "sqrtsoftplus": lambda scores: nn.functional.softplus(scores.float()).sqrt(),
}

_OPERATIONS = {
    torch.ops.aten._softmax.default: "softmax",
    torch.ops.aten.sigmoid.default: "sigmoid",
    torch.ops.aten.softplus.default: "sqrtsoftplus",
}

# Events between a function and the router whose scores it takes, at most.
_NEAR = 8

# A function with its input, or a router with what it returned.
_Event = tuple[str, list[Tensor]]


def find_routers(model: nn.Module) -> dict[str, nn.Module]:
    """Find what scores experts: modules named router or gate beside experts, and their parts."""
    modules = dict(model.named_modules())
    blocks = {
        name
        for name, module in modules.items()
        for child_name, child in module.named_children()
        if "expert" in f"{child_name} {type(child).__name__}".lower()
    }
    named = ((name, re.match(r"(.*?)\.(router|gate)(\.|$)", name)) for name in modules)
    return {name: modules[name] for name, match in named if match and match[1] in blocks}


def all_tensors(output: Any) -> list[Tensor]:
    """List the tensors that a module returned: one, or those of a tuple or mapping."""
    if isinstance(output, Tensor):
        return [output]
    parts = list(output.values()) if hasattr(output, "values") else output
    known = parts if isinstance(parts, tuple | list) else ()
    return [part for part in known if isinstance(part, Tensor)]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what goes into the functions that make probabilities."""

    def __init__(self, events: list[_Event]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events = events

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _OPERATIONS:
            self.events.append((_OPERATIONS[func], [args[0]]))
        return output


def find_scores(model: nn.Module, tokens: Tensor) -> dict[str, Scores]:
    """Find what is made of the scores of each router, on tokens (n_prompts, n_tokens)."""
    events: list[_Event] = []
    routers = find_routers(model)
    if not routers:
        return {}
    with ExitStack() as stack, torch.no_grad(), _Watch(events):
        for name, module in routers.items():

            def note(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
                events.append((name, all_tensors(output)))

            stack.enter_context(module.register_forward_hook(note))
        model(input_ids=tokens, use_cache=False)
    scores: dict[str, Scores] = {}
    for index, (function, tensors) in enumerate(events):
        if function in routers:
            continue
        for name, returned in events[max(index - _NEAR, 0) : index + _NEAR]:
            for number, tensor in enumerate(returned if name in routers else ()):
                if _is_from(tensors[0], tensor, function):
                    scores.setdefault(name, Scores(index=number, function=function))
    return scores


def _is_from(values: Tensor, scores: Tensor, function: str) -> bool:
    """Tell whether a function's input (..., n) are the scores (..., n_experts), or some of each."""
    if min(values.dim(), scores.dim()) < 2 or not scores.is_floating_point():
        return False
    n, n_experts = values.shape[-1], scores.shape[-1]
    rows, all_scores = values.reshape(-1, n), scores.reshape(-1, n_experts)
    if len(rows) != len(all_scores) or (n > n_experts and function == "softmax"):
        return False
    same = rows[:, :, None] == all_scores[:, None, :]
    same |= (rows == -torch.inf)[:, :, None]  # experts that were not chosen
    return bool(same.any(dim=1 if n > n_experts else 2).all())
