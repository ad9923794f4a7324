"""Divides the members of a tar into samples by their names.

WebDataset's rule (tariterators.py, base_plus_ext): consecutive members with the same name up to the first dot of the
basename are a sample, and the rest of the name is the extension. Names with more dots, like frame.0001.jpg, would be
one sample of many pictures by that rule. So a run of members of one name is divided further if no picture in it has
exactly that name. (Read "picture" as "video" in a corpus of videos.) Where that can be read in two ways, it is an
error. `samples` may start at the first member of any sample, and finds the same samples from there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice

from raylabel.corpus.config import Corpus, is_media
from raylabel.errors import InputError

MEMBERS = 1000  # per sample, at most: they are held in memory together


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, and the position and size of its data (bytes)."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TarSample:
    """The members of one sample by extension, in lower case, and the one with the media, if there is one; `offset` is
    the position of the first member's header (bytes)."""

    name: str
    offset: int
    members: dict[str, Member]
    media: Member | None

    def member(self, extension: str | None) -> Member | None:
        """The member with that extension, in upper or lower case."""
        return self.members.get(extension.lower()) if extension else None


Found = tuple[int, Member]  # the position of a member's header (bytes), and the member


def first_dot(name: str) -> str:
    """The name up to the first dot of its basename."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


class Names:
    """How the names in the tar `uri` of a corpus are divided."""

    def __init__(self, corpus: Corpus, uri: str) -> None:
        self._corpus, self._uri, self._more = corpus, uri, corpus.more
        self._suffix = f".{corpus.media.lower()}" if corpus.media else ""

    def is_member(self, name: str) -> bool:
        """Whether a file of that name belongs to a sample: not README, or ._a.jpg, which macOS adds."""
        base = name.rpartition("/")[2]
        return not base.startswith(".") and ("." in base or "" in self._more)

    def stem(self, name: str) -> str | None:
        """The name without its extension if it is that of media, else None."""
        base = name.rpartition("/")[2]
        if self._suffix:
            named = base[-len(self._suffix) :].lower() == self._suffix and len(base) > len(self._suffix)
            return name[: -len(self._suffix)] if named else None
        return _last_dot(name) if is_media(base, self._corpus.kind, self._more) else None

    def samples(self, members: Iterable[Found]) -> Iterator[TarSample]:
        """The samples of consecutive members, each of which `is_member`. InputError naming two members if they can be
        read in two ways, and naming the sample if it has more than MEMBERS members."""
        for (_, name), run in groupby(members, key=_Run()):
            yield from self._divide(name, run)

    def _divide(self, name: str, run: Iterator[Found]) -> Iterator[TarSample]:
        """The samples of a run of members with that name up to the first dot.

        A number in the name of a picture, as in frame.0001.jpg, says that the pictures of the run are samples of
        their own. So such a run is divided while it is read, and may have any number of members.
        """
        if self._suffix:  # the extension that is asked for decides, also if there are numbers before another one
            head = list(islice(run, MEMBERS + 1))
            if any(self.stem(member.name) == name for _, member in head):
                yield from self._resolve(name, head)
                return
            run = chain(head, run)
        held: list[Found] = []
        number, numbered = "", None  # the name of the sample that is held, up to its last number; its picture
        for found in run:
            own = self._number(found[1].name)
            if number and (own != number if own else not _within(found[1].name, number)):
                yield from self._resolve(number, held)
                held, number = [], ""
            if own and not number:
                first = next((i for i, (_, m) in enumerate(held) if _within(m.name, own)), len(held))
                yield from self._unnumbered(name, held[:first], found)
                held, number, numbered = held[first:], own, found
            held.append(found)
            if len(held) > MEMBERS:
                raise self._too_many(number or name, held)
        if number or not numbered:
            yield from self._resolve(number or name, held)
        else:
            yield from self._unnumbered(name, held, numbered)

    def _unnumbered(self, name: str, held: list[Found], numbered: Found) -> Iterator[TarSample]:
        """The samples of members of a run that are not within the name of a numbered picture: other samples of the
        form name.x. An error if one is of the form name.jpg: it may belong to all of the numbered pictures."""
        for stem, some in groupby(held, key=lambda found: _last_dot(found[1].name)):
            together = list(some)
            if stem == name:
                raise self._ambiguous(numbered, together[0])
            yield from self._resolve(stem, together)

    def _resolve(self, name: str, held: list[Found]) -> Iterator[TarSample]:
        """The samples of all members that are within that name: one, or one for each picture."""
        if len(held) > MEMBERS:
            raise self._too_many(name, held)
        media = [(stem, found) for found in held if (stem := self.stem(found[1].name)) is not None]
        exact = [found for stem, found in media if stem == name]
        if len(exact) > 1:
            raise self._ambiguous(*exact[:2])
        roots: list[str] = []
        for stem in sorted({stem for stem, _ in media}, key=len):
            if not any(_within(stem, root) for root in roots):
                roots.append(stem)
        owners = [next((root for root in roots if _within(member.name, root)), None) for _, member in held]
        if exact or not roots or (None in owners and len(roots) == 1):
            # A single a.seg.png beside a.cls is another member of the sample a, whose picture is missing.
            members: dict[str, Member] = {}
            for _, member in held:
                members.setdefault(member.name[len(name) + 1 :].lower(), member)
            yield TarSample(name, held[0][0], members, exact[0][1] if exact else None)
            return
        if None in owners:
            raise self._ambiguous(media[0][1], held[owners.index(None)])
        for root, some in groupby(zip(owners, held, strict=True), key=lambda pair: pair[0]):
            assert root is not None
            yield from self._resolve(root, [found for _, found in some])

    def _number(self, name: str) -> str:
        """A picture's name up to its last number: a.01 for a.01.jpg and a.01.left.jpg; empty if there is none."""
        stem = self.stem(name)
        if stem is None:
            return ""
        folder, slash, base = stem.rpartition("/")
        parts = base.split(".")
        last = next((i for i in range(len(parts) - 1, 0, -1) if parts[i].isdecimal()), 0)
        return folder + slash + ".".join(parts[: last + 1]) if last else ""

    def _ambiguous(self, one: Found, other: Found) -> InputError:
        names = sorted(member.name for _, member in (one, other))
        media = [name.rpartition("/")[2].partition(".")[2] for name in names if self.stem(name) is not None]
        extensions = "' or '".join(media)
        return InputError(
            f"the members '{names[0]}' and '{names[1]}' of '{self._uri}' may belong to one sample or to two: set "
            f"corpus.media to the {self._corpus.kind}'s extension after the first dot, here '{extensions}', "
            "or write a tar whose samples have no dots in their names"
        )

    def _too_many(self, name: str, held: list[Found]) -> InputError:
        what = f"sample '{name}' has more than {MEMBERS:,} members"
        return InputError(
            f"cannot read tar '{self._uri}' from byte {held[-1][0]} on: {what}; give each sample its own name"
        )


class _Run:
    """(number of the run, name up to the first dot) of consecutive members. Another such name begins a run, and so does
    a name that is repeated within MEMBERS members."""

    def __init__(self) -> None:
        self._number, self._prefix, self._names = 0, "", dict[str, None]()

    def __call__(self, found: Found) -> tuple[int, str]:
        name, prefix = found[1].name.lower(), first_dot(found[1].name)
        if prefix != self._prefix or name in self._names:
            self._number, self._prefix, self._names = self._number + 1, prefix, {}
        self._names[name] = None
        if len(self._names) > MEMBERS:
            del self._names[next(iter(self._names))]
        return self._number, prefix


def _last_dot(name: str) -> str:
    """The name up to the last dot of its basename."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.rpartition(".")[0] if "." in base else name


def _within(name: str, stem: str) -> bool:
    return name == stem or name.startswith(f"{stem}.")
