"""A synthetic listener of stories
===============================

Make voxels that follow chosen layers of a model, or the rate of words::

    llm2bids read PER_WORD --stimuli WORDS --per-word --sites residual
    python synthetic_listener.py PER_WORD T_R N_VOLUMES FOLDER

Shown: where the signal of `encoding.py` comes from in a test. A voxel is the mean of random units
of one layer while a word is heard, convolved with a haemodynamic response at 20 Hz, with
autocorrelated noise and a drift; every story is heard twice. Writes `STORY.npz` with `first` and
`second`, each (n_volumes, n_voxels), and `voxels.tsv`. Nobody was scanned.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from nilearn.glm.first_level.hemodynamic_models import glover_hrf
from scipy.signal import lfilter, oaconvolve

import llm2bids

FIRST, STEP = 2, 4
PER_KIND = 40
SHARE = 0.05
RATE = 20
REPEAT_R = 0.3
"""Correlation of the two times that a voxel hears a story."""


def followed(dataset):
    """Choose the layers that voxels follow, every fourth."""
    return [site for site in dataset.space.sites if site.role == "residual"][FIRST::STEP]


def kinds(layers):
    """Name what each voxel follows."""
    names = [f"layer{site.layer}" for site in layers] + ["rate", "noise"]
    return np.repeat(names, PER_KIND)


def word_signals(dataset, run, rng):
    """Give what each voxel takes from each word, (n_words, n_voxels)."""
    scale, values = dataset.calibration.scale, dataset.values(run)
    deviation = (values - dataset.calibration.mean) / scale
    signals = []
    for site in followed(dataset):
        part = deviation[:, dataset.space.site_slices[site.name]]
        weights = rng.normal(size=(part.shape[1], PER_KIND))
        weights *= rng.random(weights.shape) < SHARE
        signals.append((part - part.mean(axis=0)) @ weights)
    ones = np.ones((len(deviation), PER_KIND))
    return np.concatenate([*signals, ones, 0 * ones], axis=1)


def heard(words, events, t_r, n_volumes):
    """Put what words give on the clock of a scan, through a haemodynamic response."""
    onset, length = events["spoken_onset"].to_numpy(), events["spoken_duration"].to_numpy()
    n_samples = int(n_volumes * t_r * RATE)
    time = np.arange(n_samples) / RATE
    word = np.searchsorted(onset, time, side="right") - 1
    said = (word >= 0) & (time < (onset + length)[word])
    series = np.where(said[:, np.newaxis], words[word], 0.0)
    response = glover_hrf(1 / RATE, oversampling=1)
    filtered = oaconvolve(series, response[:, np.newaxis], axes=0)[:n_samples]
    # the middle of each volume, as the series of a scan is after slice-time correction
    return filtered[((np.arange(n_volumes) + 0.5) * t_r * RATE).astype(int)]


def listen(signal, rng):
    """Hear a story once: its signal, noise, and a drift."""
    noise = lfilter([1], [1, -0.4], rng.normal(size=signal.shape), axis=0)
    noise /= noise.std(axis=0)
    power = signal.std(axis=0)
    level = np.where(power > 0, power * np.sqrt(1 / REPEAT_R - 1), 1.0)
    drift = np.linspace(-1, 1, len(signal))[:, np.newaxis] * rng.normal(size=signal.shape[1])
    return (signal + level * (noise + 0.5 * drift)).astype(np.float32)


def make(per_word, t_r, n_volumes, folder):
    """Make all stories; return the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = llm2bids.open_dataset(per_word)
    rng = np.random.default_rng(1)
    for run in dataset.runs:
        words = word_signals(dataset, run, np.random.default_rng(0))
        events = pd.read_csv(run.events, sep="\t", keep_default_na=False)
        signal = heard(words, events, float(t_r), int(n_volumes))
        twice = {name: listen(signal, rng) for name in ("first", "second")}
        np.savez(folder / f"{run.task}.npz", **twice)
    table = pd.DataFrame({"follows": kinds(followed(dataset))})
    table.to_csv(folder / "voxels.tsv", sep="\t", index=False)
    return folder


if __name__ == "__main__":
    print(make(*sys.argv[1:]))
