"""Our side of a kernel's process: `parent` calls it, `guard` and `caches` see whether it cheats."""
