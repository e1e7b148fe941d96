"""The tables that stages write and read: parquet or CSV, by their suffix."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pyarrow import ArrowException

from logitfusion.errors import UserError
from logitfusion.files import name_output, whole


def read_table(path: str | Path) -> pd.DataFrame:
    """A table; a missing or broken file is a ``UserError`` that names it."""
    try:
        return pd.read_csv(path) if Path(path).suffix == ".csv" else pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the stage again that writes it.") from None
    except (ArrowException, ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(
            f"{path} is not a readable table ({str(error).splitlines()[0]}); delete {name_output(path)} and run again."
        ) from None


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table, all of it or none."""
    with whole(path) as temporary:
        if Path(path).suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary)
