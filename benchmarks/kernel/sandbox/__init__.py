"""The process that a kernel runs in (`worker`), our side of it (`parent`), and what links them.

`guard` has every defence against a kernel that cheats.
"""
