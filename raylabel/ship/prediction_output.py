"""Where a prediction is written: one file, or a folder with a file for each part of SCORES; and its summary beside it.

The summary is written first without the results, so that what exists of a killed call is known to be of this
prediction, and last with them. Each file is written in one atomic step.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self, get_args

import pyarrow.fs as pafs

from raylabel.corpus.config import absolute
from raylabel.errors import InputError
from raylabel.ship.prediction_tables import Form
from raylabel.store.artifact import File, write_bytes
from raylabel.store.files import filesystem, read_file, reading

ONE_FILE = 1_000_000  # samples, at most: a spreadsheet opens 1,048,576 rows, and one task writes the file in memory
PREDICTED, REJECTED = "predictions", "rejects"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was predicted: the contents of the summary."""

    prediction: str
    """Identifies what the files have: the network, the corpus and where it is, the columns."""
    network: str
    """Folder of the network."""
    corpus: list[str]
    classes: list[str]
    """Names of the classes, in the order of their indices."""
    p: int
    """Classes per sample."""
    passed_over: list[dict[str, Any]]
    """Files beside the samples that are none, as in summary.json of a run."""
    scores: str = ""
    """Folder of the SCORES in the root."""
    samples: int = 0
    predicted: int = 0
    rejected: int = 0
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    """Rejects by reason, most frequent first."""
    per_class: list[int] = dataclasses.field(default_factory=list)
    """Samples whose best class is this one, in the order of `classes`."""
    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Name, rows, bytes and sha256 of each file; empty while the prediction is not complete."""


@dataclass(frozen=True)
class Output:
    """Where a prediction is written."""

    uri: str
    """As an absolute path, or s3://, gs://."""
    form: Form
    whole: bool
    """One file; otherwise a folder."""

    @classmethod
    def of(cls, to: str, form: Form | None) -> Self:
        """`to` is one file if it ends in .parquet or .csv, otherwise a folder of parquet, or of the form that is given.
        InputError if the form is another one than that of the file."""
        named = next((one for one in get_args(Form) if to.lower().endswith(f".{one}")), None)
        if named and form not in (None, named):
            raise InputError(f"form is {form}, but to is '{to}': leave form out, or change the ending")
        return cls(absolute(to.rstrip("/")), named or form or "parquet", bool(named))

    @property
    def folder(self) -> str:
        return self.uri.rpartition("/")[0] if self.whole else self.uri

    def name(self, table: str, part: int = 0) -> str:
        """The name in `folder` of the file with the predictions or rejects of a part, or of all."""
        if not self.whole:
            return f"{table}/{part:06d}.{self.form}"
        base = self.uri.rpartition("/")[2]
        return base if table == PREDICTED else f"{base.rpartition('.')[0]}.{table}.{self.form}"

    @property
    def summary(self) -> str:
        """The name in `folder` of the summary."""
        base = self.uri.rpartition("/")[2].rpartition(".")[0]
        return f"{base}.summary.json" if self.whole else "summary.json"

    def claim(self, wanted: Prediction) -> Prediction | None:
        """What is written here of this prediction, if the call that wrote it was complete. InputError if something else
        is written here."""
        sizes = self._sizes()
        found = self._read() if self.summary in sizes else None
        if found is None:
            if sizes:
                raise InputError(f"'{self.uri}' exists ({min(sizes)}): delete it, or give another --to")
            return None
        if found.prediction != wanted.prediction:
            raise InputError(
                f"'{self.uri}' has another prediction, by {found.network} of {', '.join(found.corpus)}: delete it, or "
                "give another --to"
            )
        for file in found.files:
            if sizes.get(file["name"], file["bytes"]) != file["bytes"]:
                raise InputError(
                    f"'{self.folder}/{file['name']}' was changed after it was written: move it away, or give another "
                    "--to"
                )
        complete = found.files and sizes.keys() >= {file["name"] for file in found.files}
        return found if complete else None

    def write_summary(self, prediction: Prediction) -> None:
        text = json.dumps(dataclasses.asdict(prediction), indent=2, ensure_ascii=False)
        write_bytes(self.folder, self.summary, text.encode())

    def write(self, name: str, data: memoryview, rows: int) -> File:
        return dataclasses.replace(write_bytes(self.folder, name, data), rows=rows)

    def _read(self) -> Prediction:
        """The summary. InputError if a file of its name is none."""
        uri = f"{self.folder}/{self.summary}"
        try:
            return Prediction(**json.loads(read_file(uri)))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"'{uri}' exists and is no summary of a prediction: move it away, or give another --to"
            ) from error

    def _sizes(self) -> dict[str, int]:
        """The name in `folder` and the bytes of each file that exists: in a folder of all, otherwise of the three of a
        prediction."""
        fs, path = filesystem(self.folder)
        with reading(self.uri):
            if self.whole:
                names = self.name(PREDICTED), self.name(REJECTED), self.summary
                infos = fs.get_file_info([f"{path}/{name}" for name in names])
                found = [info for info in infos if info.type != pafs.FileType.NotFound]
            else:
                info = fs.get_file_info(path)
                if info.is_file:
                    return {info.base_name: info.size}
                selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
                found = [one for one in fs.get_file_info(selector) if one.is_file]
        return {info.path[len(path.rstrip("/")) + 1 :]: info.size or 0 for info in found}
