"""The schemas of all tables, declared once and checked where a table is read or written.

Letters: N samples, B batch, C classes, P classes kept per sample, K samples kept per class, H W pixels; for videos
M clips of T frames.
"""

from typing import Literal, get_args

import pyarrow as pa

from raylabel.errors import InputError

DIGEST_BYTES = 16
THUMBNAIL_SIDE = 24  # pixels
MAX_BYTES = 1 << 30  # of one encoded sample: a larger one is rejected without being read

# The corpus: parquet files, WebDataset tars, or runs of loose files. Only loose files have `paths`, and only tars
# `starts`: rows at which reading may begin, among them the first of each unit, with the position of the byte; last the
# number of rows and the position where the last one ends. Earlier versions did not write this column.
SHARDS = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),  # parquet | webdataset | files
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("paths", pa.list_(pa.string()), nullable=False),
        pa.field("starts", pa.list_(pa.struct([("row", pa.int64()), ("byte", pa.int64())])), nullable=False),
    ]
)

# What indexing found in a tar beside its rows, so that an unchanged tar is not read again: see TarMeasure.
_PASSED = pa.struct([("extension", pa.string()), ("count", pa.int64()), ("examples", pa.list_(pa.string()))])
TARS = pa.schema(
    [
        SHARDS.field("shard"),
        pa.field("runs", pa.int64(), nullable=False),
        pa.field("without", pa.int64(), nullable=False),
        pa.field("example", pa.string(), nullable=False),
        pa.field("passed", pa.list_(_PASSED), nullable=False),
    ]
)

# One row per readable sample, in key order within a file; the three lists have P entries, best class first.
SCORES = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),  # BLAKE2b-128 of the encoded bytes and the segment
        pa.field("group", pa.int64(), nullable=False),  # the same for all samples of one source video; 0: no video
        pa.field("classes", pa.list_(pa.int32()), nullable=False),
        pa.field("log_odds", pa.list_(pa.float32()), nullable=False),
        pa.field("logits", pa.list_(pa.float32()), nullable=False),
        # best class of each of a video's M clips; empty for images
        pa.field("clips", pa.list_(pa.int32()), nullable=False),
    ]
)


def features_schema(width: int) -> pa.Schema:
    """FEATURES of D = `width` numbers: one row per readable sample, in key order within a file.

    `feature` has unit length, or is zero; times `norm` it is what the network computed. `digest` and `group` are those
    of SCORES.
    """
    return pa.schema(
        [
            *(SCORES.field(name) for name in ("key", "digest", "group")),
            pa.field("feature", pa.list_(pa.field("element", pa.float16(), nullable=False), width), nullable=False),
            pa.field("norm", pa.float32(), nullable=False),
        ]
    )


# The names of the samples of tars, also of rejects, beside SCORES that are made for a prediction: that of the member
# with the media, or what the members of a sample without media have in common. SHARDS do not contain them.
NAMES = pa.schema([SCORES.field("key"), pa.field("name", pa.string(), nullable=False)])

# Samples of a corpus that have a tag of a class, in key order, each with its classes in ascending order.
TAGS = pa.schema([SCORES.field("key"), SCORES.field("classes")])

# Small copies of the pictures of a corpus beside its SCORES, from which near-duplicates are found: one row per readable
# sample, in key order; the bytes are those of uint8 [side, side, 3].
THUMBNAILS = pa.schema([SCORES.field("key"), pa.field("thumbnail", pa.binary(THUMBNAIL_SIDE**2 * 3), nullable=False)])

BESIDE = {"names": NAMES, "thumbnails": THUMBNAILS}
"""Tables that a scoring may keep beside SCORES or FEATURES, by the names of their files."""

Reason = Literal[
    # read
    "missing",  # a null, no such file, no media member
    "unreadable",  # the storage returned an error, or the shard is damaged there
    "empty",  # no bytes
    "too_many_bytes",  # the encoded media exceed MAX_BYTES
    # decode
    "unrecognized",  # the first bytes match no known format
    "format_not_allowed",  # a known format that raylabel does not decode
    "truncated",  # ends too early; reported as `corrupt` if the parser does not distinguish them
    "corrupt",  # the parser failed
    "too_many_pixels",  # according to its header
    "mode_not_supported",  # pixels without an agreed meaning in 8 bits: floats, integers beyond 16 bits
    "decoder_crash",  # the process that parsed it crashed, twice
    "timeout",  # parsing took too long, twice
    "out_of_memory",  # parsing took too much memory, twice
    # score
    "not_finite",  # a score is NaN or infinite
    "teacher_crash",  # the sample crashed the teacher's process, also when scored alone
]
REASONS: tuple[str, ...] = get_args(Reason)

# Every sample that was not scored, and why: `reason` is one of REASONS.
REJECTS = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # read | decode | score
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)

# Samples of a labeled set by their bytes, in key order.
DIGESTS = pa.schema([SCORES.field("key"), SCORES.field("digest")])

# Repeated samples: their digest occurs in the corpus more than once. `original` is the smallest key with it.
DUPLICATES = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("original", pa.int64(), nullable=False),
    ]
)

# Near-duplicates within a corpus, in key order: each is a copy of a sample that is not in the table, `original`.
COPIES = DUPLICATES.append(pa.field("similarity", pa.float32(), nullable=False))

Kind = Literal[
    "bytes",  # the same encoded bytes
    "video",  # segments of one source video
    "near",  # a near-duplicate: the same picture after resizing, compression, a crop of some percent
    "below",  # less similar than a near-duplicate by at most BELOW (selection/compare.py): shown, but not one
]

# Samples of a corpus that are in a set of another corpus, such as the test set, in key order. A sample has at most MOST
# rows per set and kind (selection/compare.py), those with the most similar samples; similarity is null for videos.
PAIRS = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("reference", pa.int64(), nullable=False),  # the key of the sample of the set
        pa.field("kind", pa.string(), nullable=False),  # one of Kind
        pa.field("similarity", pa.float32(), nullable=True),
    ]
)

# Labeled samples as a teacher ranks them that has not learned from them, in key order; the lists as in SCORES.
HELD = pa.schema(
    [
        SCORES.field("key"),
        pa.field("label", pa.int32(), nullable=False),
        *(SCORES.field(name) for name in ("classes", "log_odds", "logits")),
    ]
)

# Those of them whose label is likely wrong, the likeliest first: `best` is the class that the teacher ranks first.
SUSPECTS = pa.schema(
    [HELD.field(n) for n in ("key", "label")]
    + [pa.field("best", pa.int32(), nullable=False), pa.field("log_odds", pa.float32(), nullable=False)]
)

# The selected multiset, ordered by (label, rank); ranks start at 1. A sample may have several labels. A label of -1 - c
# says that class c is neither present nor absent; only sets with several labels per sample have them.
PICKS = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("key", pa.int64(), nullable=False),
    ]
)

# How many of the first picks of a class are expected to have their true label, at some ranks, ordered by (label, rank);
# low and high are the ends of the 95% interval of the share that really has it.
AUDIT = pa.schema(
    [
        *(PICKS.field(name) for name in ("label", "rank")),
        *(pa.field(name, pa.float32(), nullable=False) for name in ("precision", "low", "high")),
    ]
)

# Picked samples, each once with all its labels in ascending order: in key order, or in the order of their media.
SAMPLES = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
    ]
)

# What a teacher says of a sample, best class first: further columns of SAMPLES and EXAMPLES, for soft targets.
SOFT = pa.schema([SCORES.field("classes"), SCORES.field("log_odds")])

# The encoded bytes of samples, in files in Arrow's stream format, a record batch for each row of ROW_GROUPS.
MEDIA = pa.schema([SAMPLES.field("key"), pa.field("media", pa.large_binary(), nullable=False)])

# The record batches of MEDIA: `file` is the index of the file, `offset` and `bytes` say where the batch is in it, and
# `keys` is a checksum of its keys in their order, against which those of a table of labels are checked.
ROW_GROUPS = pa.schema(
    [
        pa.field("file", pa.int32(), nullable=False),
        pa.field("lane", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("keys", pa.int64(), nullable=False),
    ]
)

# EXAMPLES of earlier versions, in which each table of labels had its own copy of the media. They are still read.
EXAMPLES = pa.schema([SAMPLES.field("key"), MEDIA.field("media"), SAMPLES.field("labels")])

# What a classifier says of the samples of a labeled set: its best class (-1 if the sample could not be read), the rank
# of the true class (0: it is the best one), also among the classes that occur in the set, and the probability of the
# best class, also after temperature scaling.
CLASSIFIED = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("best", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("rank_among", pa.int32(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("calibrated", pa.float32(), nullable=True),
    ]
)

# One row per reported number; low and high are the ends of its 95% interval, null if it has none.
METRICS = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=True),
        pa.field("high", pa.float64(), nullable=True),
        pa.field("n", pa.int64(), nullable=False),
    ]
)

# What a network predicts for the samples of a corpus, in key order, for readers that do not know keys. The lists have
# the P best classes, best first.
PREDICTIONS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),  # of the sample: see corpus/addresses.py
        pa.field("label", pa.string(), nullable=False),  # the best class
        pa.field("class_index", pa.int32(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),  # float32 is 1.0 from log-odds of 17 on
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("class_indices", pa.list_(pa.int32()), nullable=False),
        pa.field("probabilities", pa.list_(pa.float64()), nullable=False),
    ]
)

# What of a corpus is a copy, in key order, for readers that do not know keys: a row for each set that has the sample.
COPIED = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),  # of the sample: see corpus/addresses.py
        pa.field("original", pa.string(), nullable=False),  # of the sample that is kept, or of the one in the set
        pa.field("set", pa.string(), nullable=False),  # the URI of a reference corpus; empty: the corpus itself
        pa.field("kind", pa.string(), nullable=False),  # bytes, near or video: see Kind
        pa.field("similarity", pa.float32(), nullable=True),  # 1 for equal bytes, null for segments of one video
    ]
)

# The samples that such a table leaves out since they could not be read, and why: REJECTS without the key.
LEFT_OUT = pa.schema([PREDICTIONS.field("uri"), *(REJECTS.field(name) for name in ("stage", "reason", "detail"))])


def make_key(shard: int, row: int) -> int:
    """The key of a sample: a unique integer of 8 bytes. It locates the sample, and ties are broken by it."""
    return shard << 32 | row


def split_key(key: int) -> tuple[int, int]:
    """(shard, row) of a key."""
    return key >> 32, key & 0xFFFFFFFF


def check(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """The table itself, if its columns are exactly the schema's; else InputError naming `where` and the column."""
    if table.schema.names != schema.names:
        raise InputError(f"{where}: columns are {table.schema.names}, expected {schema.names}")
    for field in schema:
        found = table.schema.field(field.name)
        if found.type != field.type:
            raise InputError(f"{where}: column '{field.name}' is {found.type}, expected {field.type}")
        if not field.nullable and table.column(field.name).null_count:
            raise InputError(f"{where}: column '{field.name}' has nulls")
    return table
