"""The process that a kernel runs in (`worker`), our side of it (`parent`), and what links them.

`guard` and `caches` have the defences against a kernel that cheats, `device` a GPU as the kernel's
process uses it.
"""
