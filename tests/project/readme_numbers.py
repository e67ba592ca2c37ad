"""Update the numbers in README's sentences from their sources.

`python -m tests.project.readme_numbers` writes them; a test compares. Line counts come from the
code, everything else from a committed page: benchmarks/RESULTS.md, benchmarks/GPU.md,
parity/LIBRARIES.md and parity/MISTAKES.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from tests.conftest import CHECKOUT

PAGE = CHECKOUT / "README.md"


def read(page: str) -> str:
    return (CHECKOUT / page).read_text("utf-8")


def lines_of_code() -> list[int]:
    names = ["melfront/oracle.py", "encoder/oracle.py"]
    names += ["encoder/model.py", "encoder/ops.py", "encoder/parts.py"]
    front_end, encoder, *in_torch = (len(read(name).splitlines()) for name in names)
    return [front_end + encoder, front_end, encoder, sum(in_torch)]


def table(title: str) -> dict[str, list[str]]:
    """A table of benchmarks/RESULTS.md: row name -> the other cells, none for a line of text."""
    part = read("benchmarks/RESULTS.md").partition(f"**{title}**\n")[2].partition("\n**")[0]
    rows = [[cell.strip(" =") for cell in row.strip("|-").split("|")] for row in part.splitlines()]
    return {name: cells for name, *cells in rows}


def ratios_of_time_and_memory() -> list[str]:
    """Our time or memory over the other library's on one core, the third column, and errors."""
    clip = table("log-mel, 8.1 s padded to 30 s, 1 core")
    large = table("encoder, large-v3, 4 blocks, batch 1, float32, 1 core")
    loading = table("load large-v3, 3.09 GB of float16, as float32, 1 core")
    memory = table("encoder, peak memory of a forward pass without its weights, 1 core")
    (of_memory,) = (line for line in memory if line.startswith("large-v3"))
    return [
        clip["transformers, torch"][2],
        clip["openai-whisper"][2],
        clip["asrfront"][2],
        clip["melfront, torch"][-1],
        clip["asrfront"][-1],
        large["transformers, sdpa"][2],
        of_memory.split("ratio ")[1],
        loading["transformers WhisperModel.from_pretrained"][2],
    ]


def on_a_gpu() -> list[str]:
    """The number of hidden states, and the largest error over dtypes and attentions, rounded up."""
    row = r"large-v3 +(\w+) +transformers' \w+ +(\d+) +([\d.]+) "
    dtypes, counts, noise = zip(*re.findall(row, read("benchmarks/GPU.md")), strict=True)
    if set(dtypes) != {"float32", "bfloat16", "float16"} or len(set(counts)) != 1:
        raise ValueError(f"benchmarks/GPU.md has {dtypes} with {counts} states")
    return [counts[0], f"{math.ceil(100 * max(map(float, noise))) / 100:.2f}"]


def libraries() -> list[int]:
    verdicts = re.findall(r"\| (PASS|NOISY|WRONG|SHAPE) \|", read("parity/LIBRARIES.md"))
    return [len(verdicts), len(verdicts) - verdicts.count("PASS")]


def mistakes() -> list[int]:
    """How many are named first and alone in at least one column: total, front end, encoder."""
    named = re.findall(r"(\d+) of \d+ mistakes are named first and", read("parity/MISTAKES.md"))
    front_end, encoder = map(int, named)
    return [front_end + encoder, front_end, encoder]


NUMBERS: list[tuple[str, Callable[[], list[int] | list[str]]]] = [
    (
        r"definition is (\d+) lines .*?: (\d+) for the front end, (\d+) for the encoder\. "
        r"The encoder in torch is (\d+)",
        lines_of_code,
    ),
    (
        r"8\.1 s clip take ([\d.]+) of the time .*? ([\d.]+) of openai-whisper's, and ([\d.]+) of "
        r"that of asrfront.*? within ([\d.e-]+) of float64, where asrfront's are within "
        r"([\d.e-]+)\. .*? "
        r"The encoder of large-v3 takes as long as transformers' \(([\d.]+)\), "
        r"with ([\d.]+) of the memory, and is loaded in ([\d.]+) of the time",
        ratios_of_time_and_memory,
    ),
    (
        r"each of the (\d+) hidden states of large-v3 is within ([\d.]+) units of transformers' "
        r"own noise, in float32, bfloat16 and float16",
        on_a_gpu,
    ),
    (r"Of (\d+) ways to call an installed library, (\d+) give other", libraries),
    (r"Each of (\d+), (\d+) of the front end and (\d+) of the encoder, is named", mistakes),
]


def rewritten(text: str) -> str:
    """The page with current numbers. Raises ValueError if a sentence is missing."""
    for pattern, numbers in NUMBERS:
        found = re.search(pattern.replace(" ", r"\s+"), text, flags=re.DOTALL)
        if found is None:
            raise ValueError(f"README.md has no sentence {pattern!r}")
        for group, number in reversed(list(enumerate(numbers(), start=1))):
            text = f"{text[: found.start(group)]}{number}{text[found.end(group) :]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")
