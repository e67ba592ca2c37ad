"""Why a kernel can be refused."""

from __future__ import annotations

# What it did, and how it was found.
REASONS = {
    "SYNTAX": "the file is not valid Python",
    "IMPORT": "the file raises when it is loaded",
    "MISSING": "the file has no function of the slot's name",
    "SIGNATURE": "the function cannot be called as the slot is",
    "RAISED": "raises; every case is called three times",
    "EXIT": "leaves the process; it runs in a process of its own",
    "CRASH": "ended by a signal; it runs in a process of its own",
    "HANG": "takes longer than the limit; its process is ended, and the next case gets a new one",
    "BROKEN": "broke the process that it was loaded into",
    "TYPE": "returns something other than a plain tensor or array",
    "SHAPE": "returns another shape",
    "DTYPE": "returns another dtype",
    "DEVICE": "returns it on another device",
    "ALIAS": "returns memory that is not, or does not stay, the result's own; addresses are "
    "compared, and results looked at again",
    "MUTATED": "changes an argument; the parent compares it, bit by bit, with what it wrote",
    "UNWRITTEN": "leaves part of the result unwritten; memory is poisoned before each call",
    "NOT_FINITE": "NaN or infinity where the truth is finite",
    "STALE": "answers an earlier question; contents change at the same addresses",
    "PACKED": "keeps what it has made of earlier weights; they change from call to call",
    "CACHE": "keeps its answers; repeated input takes far less time, or memory grows",
    "WRONG": "too far from the float64 truth",
    "SHAPES": "right on the encoder's own shapes and wrong on others, which the seed picks",
    "PRECISION": "wrong in the way that arithmetic with fewer bits is wrong",
    "EXACT": "such numbers need no rounding, so the result must be exact",
    "THREAD": "works while it is not called; the parent reads its process's clock and threads, and "
    "asks how long its device is busy",
    "PROCESS": "leaves processes behind",
    "HELPED": "has a process work for it that is not its own; everyone's processor time is read",
    "REFERENCE": "imports the package that it is compared with, which its process cannot",
    "TAMPERED": "replaces clocks or functions of the harness; compared with before it was loaded",
    "FORGED": "writes to the harness's own pipe",
    "TIMED": "right in the proof, wrong when timed; a random third of timed results is checked",
    "UNEVEN": "takes much longer when it is not timed",
    "LATE": "goes on working after it has said that it returned; the copy takes too long",
    "STREAM": "works on a GPU's stream that its caller does not wait for; its events say so",
    "ROOF": "faster than this machine can move the bytes or do the multiplications",
    "WHOLE": "wrong in its place in the encoder or front end",
}
# The user's file cannot be used at all: exit status 2.
UNUSABLE = ("SYNTAX", "IMPORT", "MISSING", "SIGNATURE")


class Refused(Exception):
    """The kernel is refused, or fails a case: a code of `REASONS` and a sentence.

    certain: true however busy the machine is.
    """

    def __init__(self, code: str, text: str, certain: bool = False) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text, self.certain = code, text, certain
