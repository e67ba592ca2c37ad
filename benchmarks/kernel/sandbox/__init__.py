"""The process that a kernel runs in (`worker`), our side of it (`parent`), and what lies between.

`guard` has every defence against a kernel that cheats.
"""
