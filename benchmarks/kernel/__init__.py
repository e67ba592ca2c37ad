"""Bring your own kernel: proved right on what Whisper really feeds it, then timed.

`cli` is the command. `slots` are the ops, `cases` and `edges` what they are tried on; `host` and
`child` are the two sides of the fence between us and the kernel; `judge` and `naming` say whether
it is right, `timing` and `whole` how fast it is, `report` and `record` what came of it.
"""
