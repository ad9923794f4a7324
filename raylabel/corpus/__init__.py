"""Reads encoded media as numbered rows: parquet files, WebDataset tars or loose files, local or in an object store."""

from raylabel.corpus.config import Corpus
from raylabel.corpus.index import index_corpus, verify, verify_packed
from raylabel.corpus.labels import class_names, encode_labels, read_groups, read_labels
from raylabel.corpus.read import read_keys, read_rows, read_unit
from raylabel.corpus.sample import Sample
from raylabel.corpus.shards import Shards
from raylabel.corpus.units import UNIT, Unit, UnitRange, Units, unit_rows

__all__ = [
    "UNIT",
    "Corpus",
    "Sample",
    "Shards",
    "Unit",
    "UnitRange",
    "Units",
    "class_names",
    "encode_labels",
    "index_corpus",
    "read_groups",
    "read_keys",
    "read_labels",
    "read_rows",
    "read_unit",
    "unit_rows",
    "verify",
    "verify_packed",
]
