"""Media at rest: parquet files, WebDataset tars or loose image files, local or in an object store, as numbered rows."""

from raylabel.corpus.config import Corpus
from raylabel.corpus.index import Unit, index, units, verify, verify_packed
from raylabel.corpus.labels import class_names, encode_labels, read_labels
from raylabel.corpus.read import Sample, read_keys, read_rows, read_unit
from raylabel.corpus.shards import index_corpus

__all__ = [
    "Corpus",
    "Sample",
    "Unit",
    "class_names",
    "encode_labels",
    "index",
    "index_corpus",
    "read_keys",
    "read_labels",
    "read_rows",
    "read_unit",
    "units",
    "verify",
    "verify_packed",
]
