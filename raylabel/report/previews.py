"""Small pictures of samples, for a page."""

from raylabel.corpus import Corpus, Shards, read_keys
from raylabel.media.rejects import Reject
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import CLIP_CPU_SECONDS
from raylabel.report.page import Film
from raylabel.report.thumbnails import film_parser, thumbnail_parser, unpack


def read_previews(
    corpus: Corpus, shards: Shards, keys: list[int], max_jpeg_pixels: int
) -> dict[int, tuple[bytes, Film | None]]:
    """Key → (JPEG, Film of a video) of the samples that can be shown."""
    films = corpus.kind == "video"
    previews: dict[int, tuple[bytes, Film | None]] = {}
    parser = Parser.of(thumbnail_parser, max_jpeg_pixels=max_jpeg_pixels)
    if films:
        parser = Parser.of(film_parser, CLIP_CPU_SECONDS)
    with Sandbox(parser) as sandbox:
        for some in [[key] for key in keys] if films else [keys]:  # a hundred videos may not fit into memory
            samples = [s for s in read_keys(corpus, shards, some).values() if s.media]
            made = sandbox.convert([s.media or b"" for s in samples], [s.segment or () for s in samples])
            for sample, data in zip(samples, made, strict=True):
                found = None if isinstance(data, Reject) else unpack(data) if films else (data, None)
                if found:
                    previews[sample.key] = found
    return previews
