"""MISTAKES.md and LIBRARIES.md: what is run for them, and how they are written."""
