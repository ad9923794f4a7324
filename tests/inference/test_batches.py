"""Batches of pixels that tasks send to actors."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raylabel.corpus import Unit, Units
from raylabel.inference import pool
from raylabel.inference.batches import Facts, _pack, item, units_of, unpack_batches

SHAPE = (5, 6, 3)


def batch(number: int) -> tuple[Facts, np.ndarray]:
    pixels = np.random.default_rng(number).integers(0, 256, (4, *SHAPE), dtype=np.uint8)
    names = [f"{number}/{i}" for i in range(3)]
    key = np.arange(3) + (number << 32)
    digests, stages, reasons = [b"%16d" % i for i in range(3)], ["", "read", ""], ["", "empty", ""]
    return Facts(key, digests, [1, 0, -2], names, stages, reasons, [""] * 3, ["a", "b", "c"]), pixels


def test_pixels_are_unpacked_in_the_memory_in_which_they_arrived():
    expected = [batch(number) for number in range(4)]
    sink = pa.BufferOutputStream()
    table = pa.concat_tables([_pack(*one) for one in expected])
    with pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    arrived = sink.getvalue()
    task: Any = SimpleNamespace(batch=4, scorer=SimpleNamespace(shape=SHAPE))
    for some in (pa.ipc.open_stream(arrived).read_all().slice(1), table.slice(1).combine_chunks()):
        allocated = pa.total_allocated_bytes()
        found = list(unpack_batches(some, task))
        assert pa.total_allocated_bytes() == allocated
        for (facts, pixels), (facts_before, before) in zip(found, expected[1:], strict=True):
            assert np.array_equal(torch.from_numpy(pixels).numpy(), before)  # torch does not warn
            assert facts.key.tolist() == facts_before.key.tolist()
            for name in ("digest", "group", "uri", "stage", "reason", "detail"):
                assert getattr(facts, name) == getattr(facts_before, name)
    addresses = [pixels.ctypes.data for _, pixels in unpack_batches(pa.ipc.open_stream(arrived).read_all(), task)]
    assert all(arrived.address <= at < arrived.address + arrived.size for at in addresses)


def test_packing_refers_to_the_pixels_of_the_batch():
    facts, pixels = batch(0)
    packed = _pack(facts, pixels)
    assert packed.column("pixels").chunk(0).buffers()[2].address == pixels.ctypes.data


def test_many_work_items_are_made_by_tasks_in_order(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    units = Units(np.array([5, 0, 1100, 70], np.int64), 10)
    listed = list(units)
    items = [units.between(first, first + 7) for first in range(0, len(units), 7)] + [(Unit(0, 0, 2, (1, 4)),)]
    expected = [listed[first : first + 7] for first in range(0, len(units), 7)] + [[Unit(0, 0, 2, (1, 4))]]
    assert [list(units_of(item(some))) for some in items] == [[some] for some in expected]
    assert item(units.between(3, 9)).equals(item(listed[3:9]))
    for few in (1000, 6, 1):
        monkeypatch.setattr(pool, "FEW_ITEMS", few)
        blocks = pool._blocks(items)
        found = [
            row for table in blocks.iter_batches(batch_size=None, batch_format="pyarrow") for row in units_of(table)
        ]
        assert found == expected
