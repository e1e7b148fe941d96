"""The tables that stages write and read: parquet or CSV, by their suffix."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import ArrowException, parquet

from logitfusion.artefact import DIGEST, UNSEALED, check_seal, seal
from logitfusion.errors import UserError
from logitfusion.files import name_output, whole
from logitfusion.integrity import check_file


def read_table(path: str | Path) -> pd.DataFrame:
    """A table as it was written: parquet has a digest, CSV is held against the record beside it, if there is one.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        if Path(path).suffix == ".csv":
            check_file(path)
            return pd.read_csv(path)
        check_seal(path)
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the stage again that writes it.") from None
    except (ArrowException, ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(
            f"{path} is not a readable table ({str(error).splitlines()[0]}); delete {name_output(path)} and run again."
        ) from None


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table, all of it or none; parquet with a digest of all of its bytes."""
    with whole(path) as temporary:
        if Path(path).suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            content = pa.Table.from_pandas(table)
            parquet.write_table(
                content.replace_schema_metadata({**content.schema.metadata, DIGEST: UNSEALED}), temporary
            )
            seal(temporary)
