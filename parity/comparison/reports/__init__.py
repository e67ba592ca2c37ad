"""The result of a comparison: text, JSON, picture, and the command that repeats it."""
