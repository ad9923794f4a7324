"""PICKS whose lists end where the audit says.

Letters: C classes.
"""

import numpy as np
import pyarrow as pa

from raylabel.compute.tasks import run_tasks
from raylabel.errors import InputError
from raylabel.schema import PICKS
from raylabel.selection.select import count_samples, key_bits, write_keys
from raylabel.selection.shuffle import open_table
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.text import listed


def shorten(root: Root, picks: Artifact, audited: Artifact, classes: tuple[str, ...], allow_empty: bool) -> Artifact:
    """PICKS without those after the lengths of an audit. Info as of `picks`. InputError if a class has none left,
    unless `allow_empty`."""
    lengths, before = np.array(audited.info["lengths"], np.int64), picks.info["per_class"]
    lost = [name for name, old, new in zip(classes, before, lengths, strict=True) if old and not new]
    if lost and not allow_empty:
        raise InputError(
            f"not even the first pick of {len(lost):,} classes ({listed(lost)}) has the precision that "
            "select.precision asks for: lower it, or continue without them by --select.allow-empty"
        )

    def build(draft: Draft) -> Built:
        scratch, bits = draft.scratch("keys"), key_bits(picks.info["picks"])
        names = [file.name for file in picks.files("picks-")]
        found = run_tasks(_shorten, [(picks.uri, draft.uri, name, lengths, scratch, bits) for name in names])
        files, keys = [file for file, _, _ in found], [name for _, name, _ in found]
        per_class = np.sum([counts for _, _, counts in found], axis=0).tolist()
        kept = {
            "picks": sum(per_class),
            "samples": count_samples(scratch, keys, bits, sum(per_class)),
            "per_class": per_class,
        }
        return Built(files, {name: kept.get(name, value) for name, value in picks.info.items() if name != "seconds"})

    return root.make("picks", {**picks.identity, "lengths": lengths.tolist()}, build)


def _shorten(
    folder: str, out: str, name: str, lengths: np.ndarray, scratch: str, bits: int
) -> tuple[File, str, np.ndarray]:
    """The PICKS of a file that stay, the name of the file of their keys, and the picks of each class, int64 [C]."""
    with open_table(folder, name, PICKS) as file:
        table = file.read(use_threads=False)
    label = table.column("label").to_numpy()
    table = table.filter(pa.array(table.column("rank").to_numpy() <= lengths[label]))
    number = int(name.rpartition("-")[2].removesuffix(".parquet"))
    counts = np.bincount(table.column("label").to_numpy(), minlength=len(lengths))
    keys = write_keys(scratch, table.column("key").to_numpy(), number, bits)
    return write_table(out, name, table), keys, counts
