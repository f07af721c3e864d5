"""Means, ratios and quantiles of values per token, with their uncertainty.

Errors are standard errors over tokens taken as independent, as llama-perplexity prints them. Tokens of one
text are not quite independent, so they are a little too small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error."""

    value: float
    error: float

    def times(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.error * abs(factor))


@dataclass(frozen=True)
class Quantile:
    """The value below which `fraction` of the tokens lie, with its 95 % interval `low` to `high`."""

    fraction: float
    value: float
    low: float
    high: float


def mean(values: Floats) -> Estimate:
    """The mean and its error s / sqrt(n), where s has n - 1 in its denominator."""
    n = len(values)
    error = float(values.std(ddof=1)) / n**0.5 if n > 1 else float("nan")
    return Estimate(float(values.mean()), error)


def exp_mean(values: Floats) -> Estimate:
    """The perplexity: exp(mean) of negative log-likelihoods. The error is the error of the mean times the value."""
    logs = mean(values)
    value = float(np.exp(logs.value))
    return Estimate(value, value * logs.error)


def root_mean_square(values: Floats) -> Estimate:
    """The root mean square sqrt(mean(x^2)). The error is the error of the mean square over twice the value."""
    square = mean(values**2)
    root = square.value**0.5
    return Estimate(root, 0.5 * square.error / root if root else 0.0)


def fraction(hits: npt.NDArray[np.bool_]) -> Estimate:
    """The share p of True, and its binomial error sqrt(p (1 - p) / (n - 1))."""
    n, share = len(hits), float(hits.mean())
    error = (share * (1 - share) / (n - 1)) ** 0.5 if n > 1 else float("nan")
    return Estimate(share, error)


def ratio(above: Floats, below: Floats) -> Estimate:
    """mean(above) / mean(below) over the same tokens. The error (delta method) takes their covariance into account."""
    bottom = float(below.mean())
    if bottom == 0:
        return Estimate(float("nan"), float("nan"))
    value = float(above.mean()) / bottom
    return Estimate(value, mean(above - value * below).error / abs(bottom))


def quantile(values: Floats, fraction: float) -> Quantile:
    """The quantile, interpolated linearly between order statistics, as llama-perplexity does.

    The interval holds for any distribution: the ranks n f -+ 1.96 sqrt(n f (1 - f)), since the number of
    values below the true quantile is binomial.
    """
    ordered = np.sort(values)
    n = len(ordered)
    half = 1.96 * (n * fraction * (1 - fraction)) ** 0.5
    low = max(int(np.floor(n * fraction - half)) - 1, 0)
    high = min(int(np.ceil(n * fraction + half)), n - 1)
    value = float(np.quantile(ordered, fraction))
    return Quantile(fraction, value, float(ordered[low]), float(ordered[high]))
