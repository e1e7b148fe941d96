"""Whether a package that was fetched some time ago is still there, and still is the one that the config names."""

from __future__ import annotations

from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.files import sha256


def check_kept(package: str | Path, digest: str | None) -> None:
    """Refuse a package on this machine whose SHA-256 is not ``digest``; None: nobody has said what it is.

    Raises:
        UserError: the package is not there, or has other bytes.
    """
    if not Path(package).exists():
        raise UserError(f"The package {package} is not there; fetch it again.")
    if not Path(package).is_file():  # reading a pipe might never end
        raise UserError(f"The package {package} is not a file; correct its path.")
    if digest is not None and (found := sha256(package)) != digest:
        raise UserError(
            f"The package {package} is damaged, or not the expected one: its SHA-256 is {found}, not {digest}; delete"
            " it and run again."
        )
