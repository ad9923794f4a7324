"""Parts of an artifact that is being built: each is committed by its record, so that a run that resumes keeps it."""

import dataclasses
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raylabel.store.artifact import File
from raylabel.store.files import list_files, read_file, write_file


def commit_part(folder: str, number: int, files: list[File], found: Mapping[str, Any]) -> dict[str, Any]:
    """Commits one part of a build: writes its record, after its files. It may be repeated."""
    record = {"part": number, "files": [dataclasses.asdict(f) for f in files], **found}
    write_file(f"{folder}/parts/{number:06d}.json", json.dumps(record).encode())
    return record


def committed_parts(folder: str, retry_rejects: bool = False) -> dict[int, dict[str, Any]]:
    """The records of committed parts, by number. A run that resumes does not repeat these parts. With `retry_rejects`,
    those without rejects."""
    names = list_files(f"{folder}/parts")
    with ThreadPoolExecutor(16) as pool:  # small files: reading them is mostly waiting
        records = pool.map(lambda name: json.loads(read_file(f"{folder}/parts/{name}")), names)
        return {record["part"]: record for record in records if not (retry_rejects and record["reasons"])}


def files_of(records: Mapping[int, Mapping[str, Any]]) -> list[File]:
    """The files of committed parts, in part order."""
    return [File(**f) for number in sorted(records) for f in records[number]["files"]]
