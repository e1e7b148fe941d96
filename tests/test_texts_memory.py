"""Texts at size: the memory that drawing them takes is that of some batches, however many there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import ROOT

from logitfusion.config.section import canonical
from logitfusion.config.texts import TextTask

READ = """
import sys
from pathlib import Path
from logitfusion.config.section import parse
from logitfusion.config.texts import TextTask
from logitfusion.tasks import hub_rows, mixtures, streaming

for folder in sys.argv[1:]:
    path = f"{folder}/rows.parquet"
    facts = {"name": path, "path": path, "sha256": "0"}
    file, download = type("File", (), facts), {"commit": "0", "files": [facts]}
    hub_rows._download = lambda *_: type("Here", (), {"files": [file]})
    reader = hub_rows.Reader(builder="parquet", options={}, features=None, splits={"train": [path]})
    task = parse(TextTask, Path(folder, "config.json").read_text())
    source = streaming.Source(task.texts[0], hub_rows.FetchedRows(download=download, reader=reader))
    mixtures.write_mixture(task, [source], Path(folder, "train"), Path(folder, "validation"))
    told = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in told if line.startswith("VmHWM")))
"""


def _write_rows(folder: Path, rows: int, text: str) -> Path:
    """A file of rows that each have a text, and a config that draws nine tenths of them."""
    folder.mkdir()
    schema = pa.schema({"q": pa.string(), "a": pa.string(), "unused": pa.string()})
    with pq.ParquetWriter(folder / "rows.parquet", schema) as file:
        for start in range(0, rows, 1000):
            prompts = list(map(str, range(start, start + 1000)))
            file.write_table(pa.table({"q": prompts, "a": [text] * 1000, "unused": [text] * 1000}, schema))
    part = {"dataset": "lab/long", "split": "train", "prompt": "q", "completion": "a"}
    task = TextTask.model_validate({"texts": [part], "train": rows * 9 // 10})
    (folder / "config.json").write_text(canonical(task))
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts a process's memory as Linux does")
def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    text = "word " * 3000
    folders = [_write_rows(tmp_path / str(rows), rows, text) for rows in (3000, 13_000)]
    done = subprocess.run(
        [sys.executable, "-c", READ, *folders],
        env={"PYTHONPATH": str(ROOT / "workflow"), "HF_HUB_OFFLINE": "1", "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert [len((folder / "train").read_text().splitlines()) for folder in folders] == [2700, 11_700]
    few, many = (int(line) // 1024 for line in done.stdout.splitlines())  # the most MB that the process had so far
    more = 10_000 * len(text) // 2**20  # MB, in one of the columns
    assert more > 140
    assert many - few < more / 2, "some batches more or less are in the allocator's hands"
