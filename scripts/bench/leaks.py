"""Known leaks, with the guard off and on: what each would fake, measured on the embedded model.

Everything is recorded from off prompts, called on or off at random, so there is nothing to find:
a score above chance is a leak. ``disjoint`` participants never share a prompt; ``reused`` ones see
the on prompts of the first participant again under a new seed, with the first token kept.

    .venv/bin/python scripts/bench/leaks.py --output leaks.json
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GroupKFold, KFold, cross_val_score

from llm2bids.model.load import load_model
from llm2bids.model.sites import find_sites, select_sites
from llm2bids.paradigm.load import load_paradigm
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.seed import derive_seed
from llm2bids.recording.draw import draw_scan
from llm2bids.recording.record import record_run


def recorded(loaded, sites, args):
    """Record every participant with prompts of its own."""
    scan = draw_scan(
        "null", n_participants=args.participants, seed=args.seed,
        prompts_per_block=args.prompts, tokens_per_prompt=args.tokens,
    )  # fmt: skip
    return [record_run(loaded, design, sites) for design in scan.designs]


def reused(loaded, sites, disjoint, args):
    """Show the first participant's on prompts again: other seeds, the first token kept."""
    first = [run for run in disjoint if run.design.participant_label == "01"]
    again = []
    for index in range(args.participants):
        for run in first:
            shown = tuple(trial for trial in run.design.trials if trial.trial_type is not None)
            design = dataclasses.replace(
                run.design,
                trials=shown,
                participant_label=f"{index + 1:02d}",
                seed=derive_seed(args.seed, "reused", index, run.design.task),
            )
            again.append(record_run(loaded, design, sites, keep_first=True))
    return again


def by_prompt(run):
    n_trials = len(run.design.trials)
    return run.values.reshape(n_trials, -1, run.values.shape[1])


def is_on(run):
    return np.array([trial.trial_type is not None for trial in run.design.trials])


def token_folds(runs, seed):
    """Decode a sham label from tokens, folds over tokens or over whole prompts."""
    rng = np.random.default_rng(seed)
    scores = {"off": [], "on": []}
    for run in runs:
        values = by_prompt(run)
        n_prompts, n_tokens, n_units = values.shape
        label = np.repeat(rng.permutation(n_prompts) < n_prompts // 2, n_tokens)
        prompts = np.repeat(np.arange(n_prompts), n_tokens)
        flat = values.reshape(-1, n_units)
        flat = (flat - flat.mean(0)) / (flat.std(0) + 1e-9)
        for guard, folds in (
            ("off", KFold(4, shuffle=True, random_state=seed)),
            ("on", GroupKFold(4)),
        ):
            groups = prompts if guard == "on" else None
            found = cross_val_score(
                RidgeClassifier(alpha=n_units), flat, label, cv=folds, groups=groups
            )
            scores[guard].append(found.mean())
    return scores


def identify(runs, *, skip=0):
    """Name a participant's fake tasks by the mean of the other participants' maps.

    The first `skip` volumes of each prompt are left out: a prefill volume is the same under every
    seed, and would name a reused prompt all by itself.
    """
    people = sorted({run.design.participant_label for run in runs})
    tasks = sorted({run.design.task for run in runs})
    maps = np.zeros((len(people), len(tasks), runs[0].values.shape[1]))
    for run in runs:
        place = people.index(run.design.participant_label), tasks.index(run.design.task)
        maps[place] = by_prompt(run)[is_on(run), skip:].mean(axis=(0, 1))
    maps -= maps.mean(axis=1, keepdims=True)
    scores = []
    for person in range(len(people)):
        others = np.delete(maps, person, axis=0).mean(axis=0)
        r = np.corrcoef(maps[person], others)[: len(tasks), len(tasks) :]
        scores.append(np.mean(r.argmax(axis=1) == np.arange(len(tasks))))
    return scores


def shared_baseline(runs):
    """Correlate the maps of different fake tasks: one off baseline for all, or each its own."""
    found = {"off": [], "on": []}
    for person in sorted({run.design.participant_label for run in runs}):
        own = [run for run in runs if run.design.participant_label == person]
        on = np.stack([by_prompt(run)[is_on(run)].mean(axis=(0, 1)) for run in own])
        off = np.stack([by_prompt(run)[~is_on(run)].mean(axis=(0, 1)) for run in own])
        pairs = np.triu_indices(len(own), 1)
        for guard, baseline in (("off", off[:1]), ("on", off)):
            effect = on - baseline
            start = 1 if guard == "off" else 0  # the first task's off prompts are its own
            keep = (pairs[0] >= start) & (pairs[1] >= start)
            found[guard].append(np.corrcoef(effect)[pairs][keep].mean())
    return found


def prefill(runs):
    """Name a prompt from one volume by the same prompt under another seed."""
    tasks = sorted({run.design.task for run in runs})
    scores = {"off": [], "on": []}
    for task in tasks:
        pair = [by_prompt(run) for run in runs if run.design.task == task][:2]
        for guard, place in (("off", 0), ("on", 1)):
            one, two = (values[:, place] - values[:, place].mean(0) for values in pair)
            r = np.corrcoef(one, two)[: len(one), len(one) :]
            scores[guard].append(np.mean(r.argmax(axis=1) == np.arange(len(one))))
    return scores


def joined(loaded, sites, disjoint):
    """Show all runs again, each on prompt behind an on prompt of another participant.

    So on prompts are twice as long as off prompts, and of the same kind.
    """
    shown = {(run.design.participant_label, run.design.task): run.design for run in disjoint}
    people = sorted({label for label, _ in shown})
    long = []
    for (label, task), design in shown.items():
        other = shown[people[people.index(label) - 1], task]
        trials = tuple(
            trial if trial.trial_type is None else dataclasses.replace(
                trial,
                prompt=dataclasses.replace(
                    trial.prompt, text=f"{more.prompt.text} {trial.prompt.text}"
                ),
            )
            for trial, more in zip(design.trials, other.trials, strict=True)
        )  # fmt: skip
        long.append(record_run(loaded, dataclasses.replace(design, trials=trials), sites))
    return long


def length_rates(runs, alpha=0.05):
    """Test on against off prompts over the runs of each participant: units past `alpha`.

    Runs share no prompt, so each stands for a participant of a group.
    """
    rates = []
    for person in sorted({run.design.participant_label for run in runs}):
        own = [run for run in runs if run.design.participant_label == person]
        effects = np.stack(
            [
                by_prompt(run)[is_on(run)].mean(axis=(0, 1))
                - by_prompt(run)[~is_on(run)].mean(axis=(0, 1))
                for run in own
            ]
        )
        rates.append(np.mean(stats.ttest_1samp(effects, 0.0).pvalue <= alpha))
    return rates


def random_strings_length(loaded, seed):
    """Tell random strings by length alone: cut to as many characters, or as in the bank."""
    banks = load_banks(load_paradigm("off_on_off"))
    count = lambda text: len(loaded.tokenizer(text)["input_ids"])  # noqa: E731
    plain = [prompt.text for prompt in banks["offtopic"]]
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz0123456789"))
    by_characters = [count("".join(rng.choice(letters, len(text)))) for text in plain]
    baseline = [count(text) for text in plain]
    bank = [count(prompt.text) for prompt in banks["randomstrings"]]
    return {"off": [auc(by_characters, baseline)], "on": [auc(bank, baseline)]}


def script_giveaway():
    """Tell the prompts of each bank from off prompts without any model, by how they are written.

    Random strings are no writing, so their map is no map of a topic. The guard is to leave them out
    of what is said about topics.
    """
    banks = load_banks(load_paradigm("off_on_off"))
    scores = {}
    for measure in (no_writing, capitals, letters_per_word):
        plain = [measure(prompt.text) for prompt in banks["offtopic"]]
        told = {
            name: auc([measure(prompt.text) for prompt in prompts], plain)
            for name, prompts in banks.items()
            if name != "offtopic"
        }
        strings = told.pop("randomstrings")
        scores[measure.__name__] = {"off": [strings], "on": list(told.values())}
    return scores


def no_writing(text):
    """Share of what is no vowel among letters and digits."""
    signs = [sign for sign in text.lower() if sign.isalnum()]
    return 1 - sum(sign in "aeiou" for sign in signs) / len(signs)


def capitals(text):
    return sum(map(str.isupper, text)) / len(text)


def letters_per_word(text):
    return len(text) / len(text.split())


def auc(ones, zeros):
    """Area under the curve, on the larger side: 0.5 tells nothing, 1 tells everything."""
    area = stats.mannwhitneyu(ones, zeros).statistic / (len(ones) * len(zeros))
    return float(max(area, 1 - area))


def row(name, measure, chance, scores):
    table = {"leak": name, "measure": measure, "chance": chance}
    for guard, values in scores.items():
        table[f"guard_{guard}"] = float(np.mean(values))
        table[f"guard_{guard}_by_unit"] = [float(value) for value in values]
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--participants", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=6)
    parser.add_argument("--sites", default="model.layers.[0-9].mlp.act_fn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("leaks.json"))
    args = parser.parse_args()
    loaded = load_model("embedded", device="cpu")
    sites = select_sites(find_sites(loaded), [args.sites])
    disjoint = recorded(loaded, sites, args)
    again = reused(loaded, sites, disjoint, args)
    rows = [
        row("tokens of one prompt in two folds", "accuracy", 0.5, token_folds(disjoint, args.seed)),
        row("prompts reused under new seeds", "identification of fake tasks",
            1 / len({run.design.task for run in disjoint}),
            {"off": identify(again, skip=1), "on": identify(disjoint)}),
        row("a shared off baseline", "r of fake tasks", 0.0, shared_baseline(disjoint)),
        row("the prefill token", "prompt named across seeds", 1 / args.prompts, prefill(again)),
        row("prompt length", "rate at 0.05 over runs, on prompts twice as long", 0.05,
            {"off": length_rates(joined(loaded, sites, disjoint)),
             "on": length_rates(disjoint)}),
        row("random strings' length", "AUC of length alone", 0.5,
            random_strings_length(loaded, args.seed)),
        *(row("script: random strings, and topics", f"AUC of {name.replace('_', ' ')} alone", 0.5,
              scores) for name, scores in script_giveaway().items()),
    ]  # fmt: skip
    settings = {**vars(args), "output": str(args.output), "n_runs": len(disjoint),
                "n_units": sum(site.width for site in sites)}  # fmt: skip
    args.output.write_text(json.dumps({"settings": settings, "leaks": rows}, indent=1) + "\n")
    print("| leak | measure | chance | guard off | guard on |\n|---|---|---|---|---|")
    for one in rows:
        print(f"| {one['leak']} | {one['measure']} | {one['chance']:.2f} | "
              f"{one['guard_off']:.3f} | {one['guard_on']:.3f} |")  # fmt: skip


if __name__ == "__main__":
    main()
