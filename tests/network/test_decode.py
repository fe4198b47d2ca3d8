import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from llm2bids.exceptions import NetworkError
from llm2bids.network.decode import decode
from llm2bids.network.effects import task_effects
from llm2bids.network.provenance import Provenance

SHAPE = (7, 8, 9)


def _images(values):
    """Put 300 units into a grid of 7 x 8 x 9, with a border outside the mask."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:6, 1:7, 1:8] = 1
    where = np.flatnonzero(mask)[: values.shape[1]]
    mask[:] = 0
    mask.ravel()[where] = 1
    data = np.zeros((*SHAPE, len(values)), dtype=np.float32)
    data[mask.astype(bool)] = values.T
    return Nifti1Image(data, np.eye(4)), Nifti1Image(mask, np.eye(4))


def _effect_images(effects):
    n_participants, n_tasks, n_units = effects.effects.shape
    imgs, mask = _images(effects.effects.reshape(-1, n_units)[:, :200])
    labels = list(effects.tasks) * n_participants
    groups = np.repeat(effects.participants, n_tasks).tolist()
    provenances = [
        effects.on[i][j] | effects.off[i][j] for i in range(n_participants) for j in range(n_tasks)
    ]
    return imgs, labels, {"groups": groups, "provenances": provenances, "mask_img": mask}


def test_planted_tasks_are_decoded(simulate, patterns):
    effects = task_effects(simulate(patterns[:3, :270], n_participants=4))
    imgs, labels, given = _effect_images(effects)
    result = decode(imgs, labels, **given)
    assert result.accuracy >= 0.9
    assert result.tasks == ("taskA", "taskB", "taskC")
    assert result.n_tests == 12
    assert result.scores.shape == (12, 3)
    assert result.method == "nilearn's decoder (svc)"
    assert result.provenance == effects.provenance


def test_leak_is_refused_and_identifies_fake_tasks(simulate):
    nothing = np.zeros((3, 200), np.float32)
    imgs, labels, given = _effect_images(task_effects(simulate(nothing, share="on")))
    with pytest.raises(NetworkError, match=r"decoding of group 01: .*12 prompts"):
        decode(imgs, labels, **given)
    leaked = decode(imgs, labels, **given, allow_circular=True)
    assert leaked.accuracy > 0.8
    assert "CIRCULAR" in str(leaked)


def _null_tokens(seed, *, n_prompts=16, n_tokens=12, n_units=200):
    """Draw the tokens of one run without any effect: intraclass correlation 0.2 within prompts."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(n_prompts), n_tokens)
    values = 0.5 * rng.normal(size=(n_prompts, n_units))[prompt]
    values += rng.normal(size=(prompt.size, n_units))
    imgs, mask = _images(values.astype(np.float32))
    labels = np.where(prompt % 2, "tea", "coffee").tolist()
    provenances = [Provenance.of(participants=["01"], prompts=[f"p{one}"]) for one in prompt]
    by_prompt = [f"fold{one // 2 % 4}" for one in prompt]
    shuffled = [f"fold{one}" for one in rng.permutation(prompt.size) % 4]
    given = {"provenances": provenances, "mask_img": mask, "levels": ("prompts",), "centre": False}
    return imgs, labels, by_prompt, shuffled, given


@pytest.mark.slow
def test_tokens_of_a_prompt_in_two_folds_are_refused_and_fake_accuracy():
    """Tokens shuffled over folds tell conditions apart that do not differ."""
    leaked, clean = [], []
    for seed in range(5):
        imgs, labels, by_prompt, shuffled, given = _null_tokens(seed)
        with pytest.raises(NetworkError, match=r"decoding of group fold0: .* prompts"):
            decode(imgs, labels, groups=shuffled, **given)
        leak = decode(imgs, labels, groups=shuffled, **given, allow_circular=True)
        assert leak.shared.prompts
        leaked.append(leak.accuracy)
        clean.append(decode(imgs, labels, groups=by_prompt, **given).accuracy)
    assert np.mean(leaked) > 0.8
    assert abs(np.mean(clean) - 0.5) < 0.12, clean


def test_bad_input_is_refused(simulate, patterns):
    effects = task_effects(simulate(patterns[:, :200], n_participants=3))
    imgs, labels, given = _effect_images(effects)
    with pytest.raises(NetworkError, match="12 images, 11 labels"):
        decode(imgs, labels[:-1], **given)
    with pytest.raises(NetworkError, match="found 1 groups and 4 labels"):
        decode(imgs, labels, **{**given, "groups": ["a"] * 12})
    labels[0] = "odd"
    with pytest.raises(NetworkError, match="without group 01, label odd is in 0 groups"):
        decode(imgs, labels, **given)
