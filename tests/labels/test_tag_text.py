"""The normal form of tags, compared with Python's own functions for text."""

import unicodedata

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raylabel.labels.tag_text import split_tags

SPACES = [chr(code) for code in range(0x3001) if chr(code).isspace()]
# Composed and decomposed letters, full-width letters and signs, a ligature, a capital sigma, an emoji, a joiner.
LETTERS = [*"aB#,;é7-_ÄΣñ猫", "\u0301", "ｄ", "＃", "，", "；", "ﬁ", "🐕", "\u200d", "\0", "²"]

texts = st.lists(st.text(st.sampled_from([*LETTERS, *SPACES]), max_size=12), max_size=6)


def lower(text: str) -> str:
    return "".join(
        letter.lower() for letter in unicodedata.normalize("NFKC", text)
    )  # Σ has a form for the end of words


def several(text: str) -> list[str]:
    spaced = "".join(" " if letter in ",;" else letter for letter in lower(text))
    return [tag for part in spaced.split() if (tag := part.lstrip("#"))]


def single(text: str) -> list[str]:
    return [tag] if (tag := "".join(lower(text).split()).lstrip("#")) else []


@settings(max_examples=50)
@example(SPACES, 1, False)
@example([f"#a{space}#b" for space in SPACES], 0, True)
@given(texts, st.integers(0, 2), st.booleans())
def test_tags_are_split_and_written_as_python_does_it(found: list[str], skip: int, one: bool) -> None:
    array = pa.array(["x", *found], pa.large_string())[1:][skip:]
    at, tags = split_tags(array, one)
    expected = [(i, tag) for i, text in enumerate(found[skip:]) for tag in (single if one else several)(text)]
    assert list(zip(at.tolist(), tags.to_pylist(), strict=True)) == expected


def test_what_does_not_count_and_what_does() -> None:
    text = "#Dog,##dog; ＤＯＧ\u3000#ice-cream a#b # ,"
    assert split_tags(pa.array([text], pa.large_string()))[1].to_pylist() == ["dog", "dog", "dog", "ice-cream", "a#b"]
    elements = pa.array(["#Golden  Retriever", "# a,b", " # "], pa.large_string())
    at, tags = split_tags(elements, single=True)
    assert (at.tolist(), tags.to_pylist()) == ([0, 1], ["goldenretriever", "a,b"])
