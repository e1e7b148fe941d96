"""Whether two metrics tables hold the same numbers, to the last digit.

``python benchmarks/same_numbers.py BEFORE/metrics.csv AFTER/metrics.csv``, for a change that must not move any: run,
config, commit and what a clock decides (seconds, tokens a second) are left aside, and so are columns that only one of
the tables has, by name. Exit code 1 where they differ.
"""

from __future__ import annotations

import sys

import pandas as pd

ASIDE = ["run", "config", "commit", "seconds"]
TIMED = r"^seconds|_per_second$"


def read_numbers(path: str) -> pd.DataFrame:
    """The table's rows as texts, without what is left aside."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table[~table["metric"].str.contains(TIMED)].drop(columns=ASIDE)


def order_rows(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Some columns of a table, its rows in one order."""
    return table[columns].sort_values(columns, ignore_index=True)


def main(before: str, after: str) -> int:
    """Print what differs; 0 if nothing does."""
    first, second = read_numbers(before), read_numbers(after)
    if single := sorted(set(first.columns) ^ set(second.columns)):
        print(f"in one of them only: {', '.join(single)}")
    shared = [name for name in first.columns if name in second.columns]
    first, second = order_rows(first, shared), order_rows(second, shared)
    same = first.equals(second)
    print(f"{len(first)} and {len(second)} rows: {'equal in every value' if same else 'they differ'}")
    if not same:
        both = first.merge(second, how="outer", indicator="in")
        print(both[both["in"] != "both"].to_string())
    return int(not same)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
