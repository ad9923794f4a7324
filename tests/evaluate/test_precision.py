import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylabel.artifact import Built, Root, write_table
from raylabel.corpus import Corpus, index_corpus
from raylabel.errors import InputError
from raylabel.evaluate.precision import Truth, pick_precision
from raylabel.schema import PICKS


def test_precision_joins_by_id_across_shards(ray_local, tmp_path):
    for number in range(2):
        ids = [f"{number}{row}" for row in range(4)]
        pq.write_table(pa.table({"image": [b"x"] * 4, "id": ids}), tmp_path / f"u-{number}.parquet")
    pq.write_table(pa.table({"id": ["13", "00", "01", "10"], "label": [3, 0, 1, 0]}), tmp_path / "truth.parquet")
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", Corpus(uri=(str(tmp_path / "u-*.parquet"),)))
    pairs = [(0, 0), (2, 1), (3, (1 << 32) + 3), (0, (1 << 32) + 2)]  # right, wrong, right, unknown
    rows = [{"label": c, "rank": 1, "score": 0.0, "key": key} for c, key in pairs]
    table = pa.Table.from_pylist(rows, schema=PICKS)
    picks = root.make("picks", {}, lambda d: Built([write_table(d.uri, "picks-0.parquet", table)], {}))
    uri = str(tmp_path / "truth.parquet")
    assert pick_precision(picks, shards, Truth(uri=uri)) == (2 / 3, 3)
    assert pick_precision(picks, shards, None) is None
    # Ids are compared as text; a label that is null is not known.
    numbers = pa.table({"id": [13, 11, 12], "label": pa.array([3, 1, None], pa.int8())})
    pq.write_table(numbers, tmp_path / "numbers.parquet")
    assert pick_precision(picks, shards, Truth(uri=str(tmp_path / "numbers.parquet"))) == (1.0, 1)
    pq.write_table(pa.table({"id": ["00", "00"], "label": [0, 1]}), tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="column 'id' names a sample twice"):
        pick_precision(picks, shards, Truth(uri=str(tmp_path / "twice.parquet")))
    pq.write_table(pa.table({"id": ["x"], "label": [0]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="none of the picks' ids"):
        pick_precision(picks, shards, Truth(uri=str(tmp_path / "other.parquet")))
    with pytest.raises(InputError, match="no column 'name'"):
        pick_precision(picks, shards, Truth(uri=uri, id="name"))
    with pytest.raises(InputError, match="cannot read"):
        pick_precision(picks, shards, Truth(uri=uri + "x"))
