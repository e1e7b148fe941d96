"""Archives of package managers (wheels, npm's .tgz, Debian's .deb), which come from elsewhere and may hold anything.

Members are written below one folder, never outside. An archive is read to its end, where its own checksum is, it is
held against the digest of the config whenever something is taken out of it, and what it may unpack to is bounded.
"""

from logitfusion.fetch.archives.digest import check_kept
from logitfusion.fetch.archives.gzips import open_gzip
from logitfusion.fetch.archives.limits import ArchiveError
from logitfusion.fetch.archives.tars import unpack_deb, unpack_tar
from logitfusion.fetch.archives.zips import open_zip, unpack_zip

__all__ = ["ArchiveError", "check_kept", "open_gzip", "open_zip", "unpack_deb", "unpack_tar", "unpack_zip"]
