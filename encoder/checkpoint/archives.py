"""Where in a zip archive its members are. NumPy's and PyTorch's are stored, not compressed."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

MOST_INDEX = 4 << 20  # bytes; large-v3 has 100 kB


class Limited(io.FileIO):
    """A file of which `zipfile` cannot read more at once than an index may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        limited = MOST_INDEX + 1 if size is None or size < 0 else min(size, MOST_INDEX + 1)
        data = super().read(limited) or b""
        if len(data) > MOST_INDEX:
            raise ValueError(f"an index of more than {MOST_INDEX} bytes")
        return data


class Member(NamedTuple):
    begin: int  # in bytes of the archive
    end: int
    is_stored: bool  # not compressed


def read_members(path: Path) -> dict[str, Member]:
    """The members of an archive, by name. None is read.

    Raises ValueError, in one line, also for members that overlap, or of which two have one name.
    """
    members: dict[str, Member] = {}
    size = path.stat().st_size
    with Limited(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    # After the member's own header: 30 bytes, its name and an extra field.
                    file.seek(member.header_offset)
                    header = struct.unpack("<4s22x2H", file.read(30))
                    begin = member.header_offset + 30 + sum(header[1:])
                    if header[0] != b"PK\3\4" or member.filename in members:
                        raise ValueError(f"{member.filename[:80]!r} is there twice, or not at all")
                    end = begin + member.compress_size
                    is_stored = member.compress_type == zipfile.ZIP_STORED
                    members[member.filename] = Member(begin, end, is_stored)
        except (zipfile.BadZipFile, RuntimeError, LookupError, EOFError) as error:
            raise ValueError("no whole zip archive") from error
        except (NotImplementedError, OverflowError, struct.error, OSError) as error:
            raise ValueError("no whole zip archive") from error
    last = 0
    for begin, end, _ in sorted(members.values()):
        if begin < last or end > size:
            raise ValueError("its members overlap")
        last = end
    return members
