"""When two tags are the same: their one normal form.

The characters are those of Unicode's NFKC, in lower case, so that full-width letters, ligatures and compositions are
the plain ones. A # at the beginning does not count, and a tag has no white space. An empty tag is none. Other
characters count: `ice-cream` is not `icecream`.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SPACE = r"\s\x0b\x1c-\x1f\x{85}\pZ"  # what Python's str.isspace says; RE2's \s is ASCII


def split_tags(texts: pa.Array, single: bool = False) -> tuple[np.ndarray, pa.Array]:
    """(index of the text of each tag, int64 [m], ascending; the tags, large_string [m]) of texts, large_string [n]
    without nulls, in valid UTF-8.

    A text has any number of tags, separated by white space, commas or semicolons. `single`: it is one tag, in which
    white space does not count.
    """
    # `pc` has no type hints for its functions.
    lower = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))  # pyright: ignore[reportAttributeAccessIssue]
    if single:
        at = np.arange(len(texts))
        tags = pc.replace_substring_regex(lower, f"[{_SPACE}]+", "")  # pyright: ignore[reportAttributeAccessIssue]
    else:
        lists = pc.split_pattern_regex(lower, f"[{_SPACE},;]+")  # pyright: ignore[reportAttributeAccessIssue]
        at = pc.list_parent_indices(lists).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
        tags = pc.list_flatten(lists)  # pyright: ignore[reportAttributeAccessIssue]
    tags = pc.utf8_ltrim(tags, "#")  # pyright: ignore[reportAttributeAccessIssue]
    kept = pc.not_equal(tags, "")  # pyright: ignore[reportAttributeAccessIssue]
    return at[kept.to_numpy(zero_copy_only=False)].astype(np.int64), tags.filter(kept)
