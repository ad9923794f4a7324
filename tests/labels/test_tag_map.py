"""Tags from the names of classes or a file, compared with itertools and with a dictionary."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.labels.tag_map import TagMap, make_tag_map, read_tag_map

STEMS = {"playing": "play", "guitars": "guitar", "dog": "dog", "running": "run", "cities": "citi", "a": "a"}


def as_dict(tag_map: TagMap) -> dict[str, list[str]]:
    return {tag: tag_map._names_of(t) for t, tag in enumerate(tag_map.tags.to_pylist())}


def test_a_name_of_two_words_has_the_tags_of_ig_kinetics() -> None:
    names = ("playing guitar",)
    assert set(as_dict(make_tag_map(names))) == {"playingguitar", "guitarplaying", "playguitar", "guitarplay"}


@pytest.mark.parametrize("size", range(1, 6))
def test_tags_are_all_orders_of_words_and_stems(size: int) -> None:
    words = list(STEMS)[:size]
    oracle = {
        "".join(order)
        for chosen in itertools.product(*((word, STEMS[word]) for word in words))
        for order in itertools.permutations(chosen)
    }
    made = make_tag_map(("_".join(words).title(),))
    assert set(made.tags.to_pylist()) == oracle and made.long == 0


def test_a_long_name_is_taken_in_its_own_order() -> None:
    words = ["playing", "guitars", "dog", "running", "cities", "b"]
    oracle = {"".join(chosen) for chosen in itertools.product(*({word, STEMS.get(word, word)} for word in words))}
    made = make_tag_map((" ".join(words), "dog"))
    assert set(made.tags.to_pylist()) == oracle | {"dog"} and made.info["long_names"] == 1
    longer = make_tag_map((" ".join(["playing"] * 40),))
    assert set(longer.tags.to_pylist()) == {"playing" * 40, "play" * 40} and longer.info["long_names"] == 1


def test_synonyms_are_names_and_apostrophes_do_not_divide_words() -> None:
    made = as_dict(make_tag_map(("carpenter's kit, Tool\u2010Kit,, ", "नमस्ते dog")))
    first = [tag for tag, names in made.items() if len(names) == 1 and names[0].startswith("car")]
    assert first == ["carpenterskit", "carpentkit", "kitcarpent", "kitcarpenters", "kittool", "toolkit"]
    assert set(made) - set(first) == {"नमस्तेdog", "dogनमस्ते"}


def test_a_tag_of_two_classes_is_of_both_and_a_class_without_a_tag_is_named() -> None:
    made = make_tag_map(("sunglass", "???", "sunglasses, dark glasses", "crane", "crane!", "Crane (bird)"))
    found = as_dict(made)
    assert found["sunglass"] == ["sunglass", "sunglasses, dark glasses"]
    assert found["crane"] == ["crane", "crane!"] and found["birdcrane"] == ["Crane (bird)"]
    info = made.info
    assert (info["tags"], info["ambiguous_tags"], info["without_tag"]) == (len(found), 2, ["???"])
    assert {one["tag"]: one["classes"] for one in info["ambiguous"]} == {t: found[t] for t in ("crane", "sunglass")}


def test_names_without_letters_are_an_error() -> None:
    with pytest.raises(InputError, match="no name of a class has a letter .*'0', '1'.*: give tags.map"):
        make_tag_map(("0", "1"))


def test_a_file_says_the_tags_of_each_class(tmp_path: Path) -> None:
    uri = tmp_path / "map.csv"
    uri.write_text("tag;n;class\n#Golden Retriever;1;dog\nＰＵＰ;2; dog\ncat;3;cat\npup;4;cat\npup;4;cat\n", "utf-8")
    made = read_tag_map(str(uri), ("cat", "cow", "dog"))
    assert as_dict(made) == {"cat": ["cat"], "goldenretriever": ["dog"], "pup": ["cat", "dog"]}
    assert made.info["without_tag"] == ["cow"] and made.info["ambiguous"] == [{"tag": "pup", "classes": ["cat", "dog"]}]


@pytest.mark.parametrize(
    "text, error",
    [
        ("class,tag\ncat,a\ndgo,b\n", "line 3 of tags.map '.*' has the class 'dgo', which is unknown: .*'cat', 'dog'"),
        ("class,tag\ncat,a\ncat,#\u3000#\n", "line 3 of tags.map '.*' has the tag '#.u3000#': give a tag"),
        ("class,tag\n", "has no row below its header"),
        ("class,tags\ncat,a\n", "has no column 'tag'"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "map.csv").write_text(text, "utf-8")
    with pytest.raises(InputError, match=error):
        read_tag_map(str(tmp_path / "map.csv"), ("cat", "dog"))


def test_the_digest_is_that_of_names_and_tags(tmp_path: Path) -> None:
    def digest(rows: str, *names: str) -> str:
        (tmp_path / "map.csv").write_text("class,tag\n" + rows)
        return read_tag_map(str(tmp_path / "map.csv"), names).digest

    one = digest("a,x\nb,y\n", "a", "b")
    assert one == digest("b,y\na,x\na,X\n", "a", "b")
    others = [digest("a,x\nb,y\n", "b", "a"), digest("a,x\n", "a", "b"), digest("a,x\nb,y\nb,x\n", "a", "b")]
    others.append(digest("c,x\nb,y\n", "c", "b"))
    assert len({one, *others}) == 5


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcdef")), min_size=1), st.lists(st.sampled_from("abgh")))
def test_the_classes_of_tags_are_those_of_a_dictionary(pairs: list[tuple[int, str]], tags: list[str]) -> None:
    names = ("k", "l", "m", "n")
    lines = "".join(f"{names[c]},{tag}\n" for c, tag in pairs)
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("class,tag\n" + lines)
        file.flush()
        at, classes = read_tag_map(file.name, names).find(pa.array(tags, pa.large_string()))
    oracle = [(i, c) for i, tag in enumerate(tags) for c in sorted({c for c, other in pairs if other == tag})]
    assert list(zip(at.tolist(), classes.tolist(), strict=True)) == oracle
    assert at.dtype == classes.dtype == np.int64
