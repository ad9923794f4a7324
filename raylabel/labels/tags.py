"""The configuration of the tags of a corpus, such as hashtags, as labels of its samples."""

from dataclasses import dataclass, field

from raylabel.errors import InputError
from raylabel.store.artifact import ADDED_LATER


@dataclass(frozen=True, kw_only=True)
class Tags:
    """Where the tags of a corpus are, and of which class a tag is (Yalniz et al. 2019 §4.4).

    Case, the form of Unicode (NFKC), white space and a # at the beginning of a tag do not count:
    labels/tag_text.py.
    """

    column: str = ""
    """Where the tags of a sample are; empty: there are none. The column of a parquet file or of a CSV list, or the tar
    members' extension. `json:tags` is the field `tags` of the JSON in that member or column, and `json:meta.tags` a
    field of an object in it. A string has tags separated by white space, commas or semicolons; a list of strings, as a
    column of parquet or in JSON, has one tag in each. Files in folders and *.txt lists have no tags."""

    map: str = ""
    """A CSV file with the columns `class` and `tag`, which says the tags of each class, in several rows if there are
    several. Empty: they are made from the names of the classes (labels/tag_map.py): the words of `playing guitar` in
    any order, each as it is or as its stem, as in playingguitar and guitarplay. Commas separate synonyms."""

    filter: bool = field(default=False, metadata=ADDED_LATER)
    """The teacher scores only the samples that have a tag of a class, as in the semi-weak runs of Yalniz et al. 2019
    (§4.4)."""

    def __post_init__(self) -> None:
        for name, value in {"map": self.map, "filter": self.filter}.items():
            if value and not self.column:
                raise InputError(f"tags.{name} is {value!r}, but tags.column is not given: name where the tags are")
