"""Compare stage tensors with the truth: verdicts, hints, the report and its picture."""
