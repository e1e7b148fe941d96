"""Work in parts: which items belong to which."""

from __future__ import annotations


def shard_range(items: int, shard: int, shards: int) -> range:
    """The items of one shard, numbered from 0 on: contiguous, sizes differing by at most one."""
    return range(items * shard // shards, items * (shard + 1) // shards)
