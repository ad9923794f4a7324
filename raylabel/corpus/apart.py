"""Whether the sets that a corpus is compared with have files in common with it."""

from collections import Counter
from collections.abc import Collection

from raylabel.corpus.config import absolute
from raylabel.errors import InputError


def inside(uri: str, folder: str) -> bool:
    """Whether a place is a folder, or in it; both absolute."""
    return f"{uri.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def check_apart(corpus: Collection[str], against: Collection[str]) -> None:
    """InputError if a corpus and a set have files in common: these would be copies of themselves. Seen by the URIs, not
    in lists of files."""
    if again := [uri for uri, times in Counter(map(absolute, against)).items() if times > 1]:
        raise InputError(f"against has '{again[0]}' twice: give each reference set once")
    for mine in map(absolute, corpus):
        for theirs in map(absolute, against):
            if inside(mine, theirs) or inside(theirs, mine):
                same = (
                    "is the corpus itself" if inside(mine, theirs) and inside(theirs, mine) else "overlaps the corpus"
                )
                raise InputError(
                    f"the reference set '{theirs}' {same}, '{mine}', so that its files would be copies of themselves: "
                    "leave it out, or give a corpus without it"
                )
