"""Bring your own kernel: proved right on what Whisper really feeds it, then timed.

`cli` is the command, and `run` takes one file from its loading to its verdict. `slots/` has the
ops, one file each; `proof/` what a kernel is tried on, the verdict, and the name of its mistake;
`worker/` what runs in the kernel's process, `sandbox/` our side of it; `timing/` the race, the roof
and the whole run. `report` and `record` say what came of it, `reasons` why a kernel can be
refused.
"""
