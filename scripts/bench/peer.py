"""One way to record a model's activations, prompt by prompt, as its users would write it today.

Started by ``others.py`` in the environment of the library that it times; reads a JSON file with
``folder`` (the model), ``prompts`` (token ids), ``n_tokens`` and ``sites`` (module names), and
prints the seconds of each prompt and the number of values that were recorded for it.
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import torch


def load_plain(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def options(n_tokens):
    return {"min_new_tokens": n_tokens, "max_new_tokens": n_tokens, "do_sample": True, "top_k": 0}


def hidden_states(folder, sites, n_tokens):
    """``generate(output_hidden_states=True)``: the residual stream after each layer only."""
    model = load_plain(folder)

    def once(ids):
        given = model.generate(
            ids, attention_mask=torch.ones_like(ids), pad_token_id=0, output_hidden_states=True,
            return_dict_in_generate=True, **options(n_tokens),
        )  # fmt: skip
        steps = [torch.stack([layer[0, -1] for layer in step]) for step in given.hidden_states[1:]]
        return torch.stack(steps).numel()

    return once


def hooks(folder, sites, n_tokens):
    """Keep the last position of every step by a forward hook on each module."""
    model = load_plain(folder)
    kept = {name: [] for name in sites}

    def keep(name):
        def hook(module, args, output):
            tensor = output[0] if isinstance(output, tuple) else output
            kept[name].append(tensor.reshape(-1, *tensor.shape[-2:])[0, -1].detach().clone())

        return hook

    for name in sites:
        model.get_submodule(name).register_forward_hook(keep(name))

    def once(ids):
        for values in kept.values():
            values.clear()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options(n_tokens)
        )
        return sum(torch.stack(values[1:]).numel() for values in kept.values())

    return once


def nnsight(folder, sites, n_tokens):
    """``model.generate`` as a tracing context; every step's layer outputs are saved."""
    from nnsight import LanguageModel

    model = LanguageModel(folder, device_map="cpu", dispatch=True, dtype=torch.float32)

    def once(ids):
        with model.generate(ids, **options(n_tokens)) as tracer:
            saved = list().save()
            for _ in tracer.iter[0:n_tokens]:
                for layer in model.model.layers:
                    output = layer.output
                    saved.append((output[0] if isinstance(output, tuple) else output)[..., -1, :])
        return sum(values.numel() for values in saved)

    return once


def transformer_lens(folder, sites, n_tokens):
    """Generate, then ``run_with_cache`` over the text: all of TransformerLens' own hook points."""
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)

    def once(ids):
        text = model.generate(
            ids, max_new_tokens=n_tokens, do_sample=True, stop_at_eos=False, verbose=False
        )
        _, cache = model.run_with_cache(text[:, :-1])
        return sum(
            value[:, -n_tokens + 1 :].numel()
            for name, value in cache.items()
            if name.endswith("hook_out") or "resid" in name
        )

    return once


KINDS = {
    "hidden_states": (hidden_states, "transformers"),
    "hooks": (hooks, "torch"),
    "nnsight": (nnsight, "nnsight"),
    "transformer_lens": (transformer_lens, "transformer-lens"),
}


def main():
    kind, path = sys.argv[1:]
    task = json.loads(Path(path).read_text(encoding="utf-8"))
    make, distribution = KINDS[kind]
    with torch.no_grad():
        once = make(task["folder"], task["sites"], task["n_tokens"])
        prompts = [torch.tensor([ids]) for ids in task["prompts"]]
        values = once(prompts[0])
        taken = []
        for ids in prompts:
            began = time.perf_counter()
            once(ids)
            taken.append(time.perf_counter() - began)
    version = importlib.metadata.version(distribution)
    print(json.dumps({"seconds": taken, "values": values, "version": f"{distribution} {version}"}))


if __name__ == "__main__":
    main()
