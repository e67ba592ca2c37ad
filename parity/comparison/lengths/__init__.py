"""What was given of a stage: all of it, a part, positions pooled, every window of a clip."""
