"""Identification with nilearn's decoder, on images, beside template correlation."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from nilearn.decoding import Decoder
from nilearn.image import index_img
from nilearn.maskers import NiftiMasker
from sklearn.model_selection import GroupKFold

from llm2bids.exceptions import NetworkError
from llm2bids.network.identification import Identification
from llm2bids.network.provenance import LEVELS, Level, Provenance, require_disjoint

Estimator = Literal["svc", "svc_l1", "logistic", "logistic_l1", "ridge_classifier"]


def decode(
    imgs: Any,
    labels: Sequence[str],
    *,
    groups: Sequence[str],
    provenances: Sequence[Provenance],
    mask_img: Any,
    estimator: Estimator = "svc",
    screening_percentile: float | None = 100,
    centre: bool = True,
    n_inner: int = 3,
    n_jobs: int = 1,
    levels: Collection[Level] = LEVELS,
    allow_circular: bool = False,
) -> Identification:
    """Leave out one group of images at a time, and tell its labels with `nilearn.decoding.Decoder`.

    The decoder chooses its parameters by folds over groups among the images that define it; the
    images that are left out choose nothing.

    Parameters
    ----------
    imgs : 4D image, or sequence of 3D images
        Effect maps (or any maps), anything that nilearn reads.
    labels : sequence of str, length n_imgs
        What was shown.
    groups : sequence of str, length n_imgs
        The fold of each image: its participant.
    provenances : sequence of Provenance, length n_imgs
        Where each image comes from.
    mask_img : image
        The voxels that hold a unit.
    estimator : str, default="svc"
        As in nilearn's decoder.
    screening_percentile : float or None, default=100
        As in nilearn's decoder: share of the voxels kept after a univariate test on the defining
        images, in percent.
    centre : bool, default=True
        Take the mean image of each group off its images first.
    n_inner : int, default=3
        Largest number of inner folds over groups, by which the decoder chooses its parameters.
    n_jobs : int, default=1
        Jobs of nilearn's decoder.
    levels : collection of {"participants", "runs", "prompts"}
        What folds must not share; ``("prompts",)`` for folds over the prompts of one participant.
    allow_circular : bool, default=False
        Go on where folds share data, and say so on the result.

    Returns
    -------
    Identification
        One test for each image, in the order of groups; ``scores`` are decision values.

    Raises
    ------
    NetworkError
        If folds share data; the lists differ in length; there are fewer than three groups or two
        labels; or a label is in too few groups.
    """
    names, folds = np.asarray(labels, dtype=np.str_), np.asarray(groups, dtype=np.str_)
    masker = NiftiMasker(mask_img=mask_img, standardize=None).fit()
    values = np.atleast_2d(masker.transform(imgs))
    _check(len(values), names, folds, provenances)
    shared = _check_groups(folds, provenances, levels=levels, allow_circular=allow_circular)
    if centre:
        for group in np.unique(folds):
            values[folds == group] -= values[folds == group].mean(axis=0)
    centred = masker.inverse_transform(values)
    tasks, true = np.unique(names, return_inverse=True)
    scores = np.empty((names.size, tasks.size))
    for group in np.unique(folds):
        tested = np.flatnonzero(folds == group)
        defining = np.flatnonzero(folds != group)
        _check_labels(names[defining], folds[defining], tasks, group)
        decoder = Decoder(
            estimator=estimator,
            mask=masker,
            cv=GroupKFold(n_splits=min(n_inner, np.unique(folds[defining]).size)),
            scoring="accuracy",
            screening_percentile=screening_percentile,
            standardize=None,
            n_jobs=n_jobs,
        )
        decoder.fit(index_img(centred, defining), names[defining], groups=folds[defining])
        values_of = np.asarray(decoder.decision_function(index_img(centred, tested)))
        scores[tested] = values_of if values_of.ndim == 2 else np.c_[-values_of, values_of]
    order = np.argsort(folds, kind="stable")
    return Identification(
        tasks=tuple(tasks.tolist()),
        participants=tuple(folds[order].tolist()),
        true=true[order],
        predicted=scores[order].argmax(axis=1),
        scores=scores[order],
        method=f"nilearn's decoder ({estimator})",
        shared=shared,
        provenance=Provenance.union(provenances),
    )


def _check(
    n_imgs: int,
    names: npt.NDArray[np.str_],
    folds: npt.NDArray[np.str_],
    provenances: Sequence[Provenance],
) -> None:
    if not n_imgs == names.size == folds.size == len(provenances):
        raise NetworkError(
            f"decoding: {n_imgs} images, {names.size} labels, {folds.size} groups, "
            f"{len(provenances)} provenances; expected as many of each"
        )
    n_groups, n_labels = np.unique(folds).size, np.unique(names).size
    if n_groups < 3 or n_labels < 2:
        raise NetworkError(
            f"decoding: found {n_groups} groups and {n_labels} labels; expected three groups (one "
            "to test, two to choose parameters) and two labels at least; record more participants"
        )


def _check_groups(
    folds: npt.NDArray[np.str_],
    provenances: Sequence[Provenance],
    *,
    levels: Collection[Level],
    allow_circular: bool,
) -> Provenance:
    parts = {
        group: Provenance.union(
            one for one, of in zip(provenances, folds, strict=True) if of == group
        )
        for group in np.unique(folds).tolist()
    }
    return Provenance.union(
        require_disjoint(
            Provenance.union(part for other, part in parts.items() if other != group),
            tested,
            what=f"decoding of group {group}",
            levels=levels,
            allow_circular=allow_circular,
        )
        for group, tested in parts.items()
    )


def _check_labels(
    names: npt.NDArray[np.str_],
    folds: npt.NDArray[np.str_],
    tasks: npt.NDArray[np.str_],
    group: str,
) -> None:
    for task in tasks:
        n_groups = np.unique(folds[names == task]).size
        if n_groups < 2:
            raise NetworkError(
                f"decoding: without group {group}, label {task} is in {n_groups} groups; expected "
                "two or more; leave the label out or add participants"
            )
