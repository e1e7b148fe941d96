"""Files: written whole or not at all, read with a sentence where that fails, outputs checked before work."""

from logitfusion.files.disk import find_disk_error, is_used_up
from logitfusion.files.outputs import check_outputs
from logitfusion.files.partials import remove
from logitfusion.files.reading import name_output, read_json, read_jsonl, sha256, stream_jsonl
from logitfusion.files.writing import whole, write_json, write_jsonl, write_text

__all__ = [
    "check_outputs",
    "find_disk_error",
    "is_used_up",
    "name_output",
    "read_json",
    "read_jsonl",
    "remove",
    "sha256",
    "stream_jsonl",
    "whole",
    "write_json",
    "write_jsonl",
    "write_text",
]
