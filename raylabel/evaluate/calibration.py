"""How well the probabilities of a classifier agree with how often it is right; and temperature scaling.

Guo et al. 2017, arXiv 1706.04599. Letters: N samples, C classes.
"""

import math

import numpy as np

BINS = 15
"""Of confidences, of equal width, as in Guo et al. 2017 §5."""
COLDEST, HOTTEST = 0.01, 100.0  # temperatures between which the best one is searched


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error: the difference between the mean confidence and the share that is right, in each
    of `BINS` bins of confidences, averaged over the samples (Guo et al. 2017 §2). `confidence`: of the best class, 0 to
    1 [N]; `right`: whether it is the true one, bool [N]. 0 of no samples."""
    number = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)  # a bin has its upper edge
    gaps = np.bincount(number, confidence.astype(np.float64) - right, BINS)
    return float(np.abs(gaps).sum() / max(1, len(right)))


def fit_temperature(log_p: np.ndarray, label: np.ndarray) -> float:
    """The temperature T with which softmax(log p / T) has the smallest cross-entropy on these samples: log
    probabilities float32 [N, C], or logits, and labels int64 [N]. Above 1 if the classifier is too confident. They are
    to be samples that it was not trained on (Guo et al. 2017 §4.2)."""
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        scaled = log_p.astype(np.float64) / math.exp(log_t)
        scaled -= scaled.max(1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(label)), label]).mean())

    found = minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return math.exp(found.x)  # pyright: ignore[reportAttributeAccessIssue]


def scaled_confidence(log_p: np.ndarray, temperature: float) -> np.ndarray:
    """The probability of the best class at a temperature, float64 [N]."""
    scaled = log_p.astype(np.float64) / temperature
    return 1 / np.exp(scaled - scaled.max(1, keepdims=True)).sum(1)
