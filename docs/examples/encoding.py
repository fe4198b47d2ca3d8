"""Encoding of a listener by a model
==================================

Predict a listener's voxels from a model's layers, with the nulls that it has to beat::

    llm2bids read READ --stimuli WORDS --tr 1.5 --sites residual
    llm2bids features READ FEATURES --format npz --pca 80
    pip install himalaya
    python encoding.py HUMAN FEATURES OUT [--untrained FEATURES2] [--nominal FEATURES3]

Shown: himalaya's ridge on principal components of each layer, delayed by 1 to 4 volumes. Whole
stories are left out for testing, and penalties are chosen on whole stories of the others. HUMAN has
a file `STORY.npz` for each story: `first` and, where it was heard twice, `second`, each (n_volumes,
n_voxels). With `voxels.tsv` (a column `follows`) results are told by kind of voxel.

Nulls, each with the same code: features of another story, features with random phases (--draws),
words at equal distances instead of at their onsets (--nominal), random weights (--untrained), and
word rate alone. A null is a mean over draws, with its standard error: voxels that follow one signal
are one observation, however many they are, so a single draw says nothing about zero. Beside a
layer, word rate has a band of its own.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from himalaya.ridge import GroupRidgeCV, RidgeCV
from scipy.stats import zscore

DELAYS = (1, 2, 3, 4)
TRIM = 8
ALPHAS = np.logspace(0, 6, 13)
RATES = ("word_rate", "spoken_time")


def delay(table):
    """Put copies side by side, each a volume later."""
    return np.concatenate([np.pad(table, ((d, 0), (0, 0)))[: len(table)] for d in DELAYS], axis=1)


def load_layer(folder, name):
    """Read the dictionary of stories of a module or a column; keys are the stories' names."""
    with np.load(Path(folder) / f"{name}.npz") as file:
        return {key.partition("task-")[2].partition("_")[0]: file[key] for key in file}


def stack(stories, names):
    """Standardise each story, with its edges left out, and put them one after the other."""
    return np.concatenate([zscore_columns(stories[name][TRIM:-TRIM]) for name in names])


def zscore_columns(table):
    """Standardise columns; those that do not vary are 0."""
    return np.nan_to_num(zscore(table.astype(np.float64), axis=0)).astype(np.float32)


def cut(stories, lengths):
    """Bring stories to the lengths of others: what is too long is cut, what is too short silent."""
    return {
        name: np.pad(table[:n], ((0, max(n - len(table), 0)), (0, 0)))
        for (name, table), n in zip(stories.items(), lengths, strict=True)
    }


def folds(names, lengths):
    """Give halves of the training stories: whole stories, never volumes beside one another."""
    story = np.repeat(np.arange(len(names)), lengths)
    halves = [story % 2 == half for half in (0, 1)]
    return [(np.flatnonzero(~half), np.flatnonzero(half)) for half in halves]


def scores(predicted, measured, lengths):
    """Correlate story by story, and average: (n_voxels,)."""
    edges = np.cumsum([0, *lengths])
    values = []
    for start, end in pairwise(edges):
        p, m = (zscore_columns(part[start:end]) for part in (predicted, measured))
        values.append((p * m).mean(axis=0))
    return np.mean(values, axis=0)


class Listener:
    """What was measured, split into stories to learn from and stories to test on."""

    def __init__(self, folder, lengths, n_test):
        files = {name: np.load(Path(folder) / f"{name}.npz") for name in lengths}
        self.train, self.test = list(files)[:-n_test], list(files)[-n_test:]
        sides = {
            side: {name: file[side] for name, file in files.items() if side in file}
            for side in ("first", "second")
        }
        both = {n: (sides["first"][n] + sides["second"].get(n, sides["first"][n])) / 2
                for n in files}  # fmt: skip
        self.y_train = stack(sides["first"] if not sides["second"] else both, self.train)
        self.y_test = stack(both, self.test)
        self.lengths = {name: len(both[name]) - 2 * TRIM for name in files}
        repeated = [stack(side, self.test) for side in sides.values() if side]
        self.ceiling = None
        if len(repeated) == 2:  # of the mean of two, by Spearman and Brown
            r = np.clip(scores(*repeated, self.n_test), 0.01, 1)
            self.ceiling = np.sqrt(2 * r / (1 + r))

    @property
    def n_test(self):
        """Volumes of the stories to test on."""
        return [self.lengths[name] for name in self.test]

    def fit(self, features):
        """Learn from the stories to learn from."""
        n_train = [self.lengths[name] for name in self.train]
        model = RidgeCV(alphas=ALPHAS, cv=folds(self.train, n_train))
        return model.fit(stack(features, self.train), self.y_train)

    def encode(self, features):
        """Learn from the one stories, predict the others: correlations (n_voxels,)."""
        predicted = self.fit(features).predict(stack(features, self.test))
        return scores(predicted, self.y_test, self.n_test)

    def encode_other_stories(self, features):
        """Predict each story with the features of each other one: (n_draws, n_voxels)."""
        model = self.fit(features)
        rows = []
        edges = np.cumsum([0, *self.n_test])
        for index, name in enumerate(self.test):
            measured = self.y_test[edges[index] : edges[index + 1]]
            for other in set(self.lengths) - {name}:
                predicted = model.predict(stack(features, [other]))
                n = min(len(predicted), len(measured))
                rows.append(scores(predicted[:n], measured[:n], [n]))
        return np.array(rows)


def random_phases(table, rng):
    """Keep the spectrum of each column and lose its time; all columns turn alike."""
    spectrum = np.fft.rfft(table, axis=0)
    turn = np.exp(1j * rng.uniform(0, 2 * np.pi, len(spectrum)))
    turn[0] = 1
    return np.fft.irfft(spectrum * turn[:, np.newaxis], n=len(table), axis=0)


def null_scores(listener, layer, name, args):
    """Encode with what explains nothing but by chance: correlations (n_draws, n_voxels) of each."""
    own = layer(args.features, name)
    rng = np.random.default_rng(0)
    turned = [
        listener.encode({story: random_phases(table, rng) for story, table in own.items()})
        for _ in range(args.draws)
    ]
    return {"phase": np.array(turned), "other_story": listener.encode_other_stories(own)}


def banded(listener, layers, rates):
    """Split what is explained between a layer's band and the words' rate: r2 of each."""
    spaces = [
        [stack(part, names) for part in (layers, rates)]
        for names in (listener.train, listener.test)
    ]
    n_train = [listener.lengths[name] for name in listener.train]
    model = GroupRidgeCV(
        groups="input", cv=folds(listener.train, n_train), random_state=0,
        solver_params={"n_iter": 10, "alphas": ALPHAS, "progress_bar": False},
    )  # fmt: skip
    model.fit(spaces[0], listener.y_train)
    return model.score(spaces[1], listener.y_test, split=True)


def make_parser():
    """Say what the script takes."""
    parser = argparse.ArgumentParser(description="Encoding of a listener by layers")
    parser.add_argument("human", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--untrained", type=Path)
    parser.add_argument("--nominal", type=Path)
    parser.add_argument("--n-test", type=int, default=2)
    parser.add_argument("--draws", type=int, default=20, help="of random phases")
    parser.add_argument("--band", default="model.layers.14", help="layer beside the word rate")
    return parser


def main():
    """Run all of it; print and write the table."""
    args = make_parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    rates = {name: load_layer(args.features, name) for name in RATES}
    clock = {story: len(table) for story, table in rates["word_rate"].items()}
    listener = Listener(args.human, clock, args.n_test)
    n_volumes = [listener.lengths[name] + 2 * TRIM for name in clock]
    names = sorted(
        (path.stem for path in args.features.glob("*layers.*.npz")),
        key=lambda name: int(name.rpartition(".")[2]),
    )

    def layer(folder, name):
        return {s: delay(t) for s, t in cut(load_layer(folder, name), n_volumes).items()}

    rate = {
        story: delay(np.concatenate([cut(rates[name], n_volumes)[story] for name in RATES], axis=1))
        for story in clock
    }
    n_voxels = listener.y_train.shape[1]
    path = args.human / "voxels.tsv"
    follows = (
        pd.read_csv(path, sep="\t")["follows"].to_numpy(dtype=str)
        if path.exists()
        else np.full(n_voxels, "all")
    )
    curve = {name: listener.encode(layer(args.features, name)) for name in names}
    table = pd.DataFrame(
        {name: {kind: r[follows == kind].mean() for kind in dict.fromkeys(follows)}
         for name, r in curve.items()}
    )  # fmt: skip
    best = table.idxmax(axis=1)
    nulls = {name: null_scores(listener, layer, name, args) for name in best.unique()}
    nominal = {n: listener.encode(layer(args.nominal, n)) for n in best.unique() if args.nominal}
    word_rate = listener.encode(rate)
    chosen = names[:: max(len(names) // 10, 1)]
    untrained = [listener.encode(layer(args.untrained, n)) for n in chosen if args.untrained]
    bands = banded(listener, layer(args.features, args.band), rate)
    rows = []
    for kind, name in best.items():
        mine = follows == kind
        limit = np.percentile(nulls[name]["phase"][:, mine], 99)
        row = {"voxels": kind, "best": name, "r": curve[name][mine].mean()}
        if listener.ceiling is not None:
            row["r_over_ceiling"] = (curve[name] / listener.ceiling)[mine].mean()
        for null, values in nulls[name].items():
            draws = values[:, mine].mean(axis=1)
            row[null] = draws.mean()
            row[f"{null}_se"] = draws.std(ddof=1) / np.sqrt(len(draws))
        if nominal:
            row["nominal_time"] = nominal[name][mine].mean()
        row["word_rate"] = word_rate[mine].mean()
        if untrained:
            row["untrained"] = max(values[mine].mean() for values in untrained)
        row["above_null"] = (curve[name][mine] > limit).mean()
        row["layer_band_r2"], row["rate_band_r2"] = (part[mine].mean() for part in bands)
        rows.append(row)
    result = pd.DataFrame(rows).set_index("voxels").round(4)
    result.to_csv(args.out / "encoding.tsv", sep="\t")
    table.round(4).to_csv(args.out / "layers.tsv", sep="\t")
    print(result.T.to_string())


if __name__ == "__main__":
    main()
