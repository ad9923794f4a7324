"""Reasons not to expect a gain from pre-training on a selection, which are known before it.

Two rules, from the figures of docs/results.md, in which 54% of the picks were right where the student lost to its
control, and 80% and more where it gained; tests/bench/bench_gain.py compares them with what students really gained:

- at most LEAST of the picks are expected to have their true label: the upper end of the audit's interval is below it;
- no more picks are expected to have their true label than there are labeled samples, which have theirs for certain.
"""

from raylabel.selection.audit import Audited
from raylabel.text import percent

LEAST = 2 / 3
"""The share of right picks that is halfway between that loss and that gain."""


def doubts(samples: int, labeled: int, audited: Audited | None) -> list[str]:
    """The reasons, a clause each; none if there are none. `samples`: distinct ones among the picks. `labeled`: those
    that a control is trained on. `audited`: what is expected of the picks; None if it is not known, and they may all be
    right."""
    found = []
    if audited and audited.high is not None and audited.high < LEAST:
        most = f"at most {percent(audited.high)} of the picks are expected to have their true label"
        found.append(f"{most}, and with less than {percent(LEAST)} students have lost")
    if audited and audited.precision is not None:
        if (right := round(audited.precision * samples)) <= labeled:
            have = f"{right:,} picked samples are expected to have their true label"
            found.append(f"{have}, and {labeled:,} labeled samples have theirs")
    elif samples <= labeled:
        found.append(f"{samples:,} samples are picked, and {labeled:,} labeled samples have their true labels")
    return found
