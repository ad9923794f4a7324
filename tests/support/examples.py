"""EXAMPLES that are written without Ray and without a corpus."""

import dataclasses
from typing import Any

import pyarrow as pa

from raylabel.schema import REJECTS, SAMPLES
from raylabel.store.artifact import Artifact, Built, Root, write_table
from raylabel.store.reject_limit import RejectTally
from raylabel.training.examples import labels_of_part, rejected_of, write_labels
from raylabel.training.layout import Layout
from raylabel.training.media import _write_media, finish_media

Row = tuple[int, bytes, list[int]]  # key, media, labels


def stored_examples(root: Root, rows: list[Row], layout: Layout, rejected: frozenset[int] = frozenset()) -> Artifact:
    """EXAMPLES of these samples, in key order, as a label table and MEDIA."""
    records: dict[int, dict[str, Any]] = {}
    of = {row[0]: row for row in rows}

    def build_media(draft) -> Built:
        for part in range(layout.parts):
            keys = [rows[i][0] for begin, end in layout.stretches(part, part + 1) for i in range(begin, end)]
            kept = {key: of[key][1] for key in keys if key not in rejected}
            file, groups = _write_media(draft.uri, f"media-{part:06d}.arrows", kept, layout.lanes_of(part))
            files = [dataclasses.asdict(file)] if groups else []
            lost = [(key, "", "read", "missing", "") for key in keys if key in rejected]
            if lost:
                table = pa.Table.from_pylist([dict(zip(REJECTS.names, row, strict=True)) for row in lost], REJECTS)
                files.append(dataclasses.asdict(write_table(draft.uri, f"rejects-{part:06d}.parquet", table)))
            records[part] = {"samples": len(keys), "row_groups": groups, "keys": keys, "files": files}
            records[part]["reasons"] = {"missing": len(lost)} if lost else {}
        tally = RejectTally(len(rows), 1.0)
        for record in records.values():
            tally.add(record["samples"], record["reasons"])
        return finish_media(draft, records, tally)

    media = root.make("media-fake", {}, build_media)

    def build(draft) -> Built:
        tables = []
        for part, record in records.items():
            labels = [of[key][2] for key in record["keys"]]
            samples = pa.Table.from_arrays(
                [pa.array(record["keys"]), pa.array(labels, pa.list_(pa.int32()))], schema=SAMPLES
            )
            tables.append(labels_of_part(samples, rejected_of(media, part), len(layout.lanes_of(part))))
        half = len(tables) // 2
        some = [[table for table in part if len(table)] for part in (tables[:half], tables[half:])]
        files = [write_table(draft.uri, f"examples-{i:06d}.parquet", *part) for i, part in enumerate(some) if part]
        return write_labels(draft, media, files, sum(len(of[key][2]) for key in of.keys() - rejected))

    return root.make("examples-fake", {}, build)
