"""The label head: what clusters say of a point, as one linear map of the hidden units that a robot evaluates anyway."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError

HELD_OUT = 5
"""Every so many-th point is kept out of the fit, and says how well it does."""


@dataclass(frozen=True, eq=False)
class LabelHead:
    """Logits of the classes: weight · units + bias.

    Attributes:
        weight: float32 [K, E].
        bias: float32 [K].
        agreement: Share of the held-out points to which it gives the class that their cluster has.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    agreement: float

    def assign(self, units: NDArray[np.floating]) -> NDArray[np.int64]:
        """The class [N] of each point with units [N, E]: that of the largest logit."""
        return np.asarray((units @ self.weight.T + self.bias).argmax(axis=1), dtype=np.int64)


def fit_label_head(units: NDArray[np.floating], classes: NDArray[np.int64], count: int) -> LabelHead:
    """Multinomial logistic regression of the classes of points on their hidden units.

    Between units and clusters lie two networks, of which nothing is left on the robot. A map from the units alone gives
    the same labels but for the points that lie between two clusters.

    Args:
        units: Hidden units of the features [N, E], in random order.
        classes: Class of each point [N].
        count: Number of classes K; those that no point has stay improbable.

    Raises:
        ConfigurationError: There are fewer than two classes among the points.
    """
    from sklearn.linear_model import LogisticRegression

    held_out = np.arange(len(classes)) % HELD_OUT == 0
    known = np.unique(classes[~held_out])
    if len(known) < 2:
        raise ConfigurationError(
            f"{len(known)} of {count} classes among {len(classes)} points",
            where="classes",
            cure="Give the clusters at least two names, or label more",
        )
    # Tokens have most in common: around their mean the fit takes far fewer steps, to the same result.
    mean, scale = units[~held_out].mean(axis=0), units[~held_out].std(axis=0) + 1e-6
    model = LogisticRegression(C=1.0, max_iter=300)
    model.fit((units[~held_out] - mean) / scale, classes[~held_out])
    weights = model.coef_ / scale
    biases = model.intercept_ - weights @ mean
    if len(known) == 2:  # one row stands for both
        weights, biases = np.concatenate([-weights, weights]) / 2.0, np.concatenate([-biases, biases]) / 2.0
    weight = np.zeros((count, units.shape[1]), np.float32)
    bias = np.full(count, -30.0, np.float32)
    weight[known], bias[known] = weights, biases
    head = LabelHead(weight, bias, math.nan)
    return dataclasses.replace(head, agreement=float((head.assign(units[held_out]) == classes[held_out]).mean()))
