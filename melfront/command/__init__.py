"""What the commands of all packages share: their parser, how they end, print and write files."""

# The other packages import these from here.
# mypy: implicit-reexport
# ruff: noqa: F401

from .arguments import MAX_MELS, NO_CHECK_RANGE, PROGRESS, Parser, filled, is_n_mels
from .ends import UsageError, exit_status, lacks_memory, one_line, shorten, unwound_by
from .writing import check_output, output_files, replacing, scratch_folder
