"""The dataset card of exported picks: README.md, in the layout of Hugging Face's dataset cards."""

from typing import Any, Literal

from raylabel.ship.markdown import code, codes, table, yaml_value
from raylabel.ship.picked import Picked

CARD = "README.md"

_LOAD = {
    "hf": """
from datasets import load_dataset

picks = load_dataset("FOLDER", split="train")
""",
    "webdataset": """
import glob, webdataset

picks = webdataset.WebDataset(sorted(glob.glob("FOLDER/data/*.tar")), shardshuffle=False)
""",
}
_COLUMNS = {
    "hf": [
        ["`MEDIA`", "the encoded bytes"],
        ["`label`", "index of the class, with its name as a feature of `datasets`"],
        ["`rank`", "rank of the sample in the list of its class, from 1"],
        ["`score`", "by which it was ranked"],
        ["`class`", "name of the class"],
        ["`uri`", "where the sample is in the corpus"],
    ],
    "webdataset": [
        ["`.jpg`, `.png`, `.mp4`, ...", "the encoded bytes"],
        ["`.cls`", "index of the class"],
        ["`.json`", "`class`, its name; `rank`, from 1; `score`; `uri`, where the sample is in the corpus"],
    ],
}


def write_card(picked: Picked, form: Literal["hf", "webdataset"], exported: int, rejected: int) -> str:
    """The text of the dataset card. `exported`: picks; `rejected`: samples."""
    info, kind = picked.picks.info, picked.corpus.kind
    pattern = f"data/*.{'parquet' if form == 'hf' else 'tar'}"
    values: dict[str, Any] = {
        "license": "unknown",
        "task_categories": [f"{kind}-classification"],
        "tags": ["raylabel", "pseudo-labels"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}],
    }
    head = "\n".join(["---", *(f"{name}: {yaml_value(value)}" for name, value in values.items()), "---"])
    many = len(picked.classes)
    selected = f"At most {info['k']:,} samples of each class" if "k" in info else "All samples"
    rank = f", ranked by {code(info['rank'])}" if "rank" in info else ""
    rows = [[cell.replace("MEDIA", kind) for cell in row] for row in _COLUMNS[form]]
    competing = f", of the {info['p']:,} best classes of each sample" if "p" in info else ""
    lost = f"\n- Left out: {rejected:,} samples that cannot be decoded." if rejected else ""
    return f"""{head}

# {picked.picks.name}-{picked.picks.digest}

Picks of the run {code(picked.recipe)} of raylabel: {kind}s of a corpus, with labels that no person gave them (Yalniz
et al. 2019, arXiv 1905.00546). Labels may be wrong. The licence of the {kind}s is not known: state it before you pass
them on.

- Rows: {exported:,} pairs of a sample and a class. A sample that is picked for two classes is two rows.
- Selection: {selected}{competing}{rank}; {info["picks"]:,} picks of {info["samples"]:,} samples.
- Classes: {many:,} ({codes(picked.classes)}).
- Corpus: {codes(picked.corpus.uri)}.{lost}

The rows are in an order that mixes the classes; sort them by `label` and `rank` for the lists.

{table(["column" if form == "hf" else "member", "content"], rows)}

```python{_LOAD[form]}```
"""
