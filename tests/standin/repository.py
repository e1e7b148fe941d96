"""Repositories as the hub lays them out: a model's files of a folder, a data set's subsets in Parquet under a card."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from hub_standin import Repository

Files: TypeAlias = dict[str, bytes]
Subsets: TypeAlias = Mapping[str, Mapping[str, datasets.Dataset]]  # subset -> split -> rows
DEFAULT = "default"  # the one subset of a data set that names none
_SHARDED = 100  # a training split of so many rows is in two files


def make_repository(id: str, files: Files, **traits: Any) -> Repository:
    """A repository of one commit, whose name depends on the id alone."""
    commit = hashlib.sha1(id.encode(), usedforsecurity=False).hexdigest()
    return Repository({commit: files}, {"main": commit}, any_commit=True, **traits)


def read_folder(folder: Path) -> Files:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lay_out(subsets: Subsets) -> Files:
    """A data set's Parquet files, and the card that says which are whose subset and split."""
    files, card = {}, ["---", "configs:"]
    for subset, splits in subsets.items():
        folder = "data" if subset == DEFAULT else subset
        card += [f"- config_name: '{subset}'", "  data_files:"]
        for split, rows in splits.items():
            shards = 2 if split == "train" and len(rows) >= _SHARDED else 1
            for number in range(shards):
                name = f"{folder}/{split}-{number:05}-of-{shards:05}.parquet"
                files[name] = _to_parquet(rows.shard(shards, number, contiguous=True))
            card += [f"  - split: {split}", f"    path: {folder}/{split}-*"]
    return files | {"README.md": "\n".join([*card, "---", ""]).encode()}


def _to_parquet(rows: datasets.Dataset) -> bytes:
    datasets.disable_progress_bars()
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()
