"""SHARDS as an artifact, and the guard against a corpus that changed under its scores."""

import pyarrow as pa

from raylabel.artifact import Artifact, Built, Draft, Root, digest, identity_of, write_table
from raylabel.corpus.config import Corpus, read_lines
from raylabel.corpus.index import index
from raylabel.errors import InputError
from raylabel.schema import SHARDS, check


def index_corpus(root: Root, name: str, corpus: Corpus) -> Artifact:
    """SHARDS of the corpus as it is now, as artifact `shards-<name>`.

    info["content"] names what is in it, wherever it lies: the identity that everything made from the corpus builds on.
    InputError if a shard that was indexed in this root before has changed since: what was made from it is stale.
    """
    shards = check(index(corpus), SHARDS, ", ".join(corpus.uri))
    _guard(root, name, shards)
    content = {
        "format": shards.column("format")[0].as_py(),
        "media": corpus.media,
        "label": corpus.label,
        "classes": read_lines(corpus.classes) if corpus.classes else None,
        "shards": shards.select(["rows", "bytes", "fingerprint"]).to_pylist(),
    }
    info = {"content": digest(content), "samples": sum(shards.column("rows").to_pylist())}

    def build(draft: Draft) -> Built:
        return Built([write_table(draft.uri, "shards.parquet", shards)], info)

    places = [[row["uri"], row["fingerprint"]] for row in shards.select(["uri", "fingerprint"]).to_pylist()]
    return root.make(f"shards-{name}", {"corpus": identity_of(corpus), "places": places}, build)


def _guard(root: Root, name: str, shards: pa.Table) -> None:
    now = {(r["uri"], *r["paths"][:1]): r["fingerprint"] for r in shards.to_pylist()}
    for earlier in root.named(f"shards-{name}"):
        for row in earlier.table("shards", SHARDS).to_pylist():
            place = (row["uri"], *row["paths"][:1])
            if now.get(place, row["fingerprint"]) != row["fingerprint"]:
                raise InputError(
                    f"shard '{row['uri']}' changed since it was indexed: restore it, or, if the change is meant, "
                    f"delete {earlier.uri} and run again"
                )
