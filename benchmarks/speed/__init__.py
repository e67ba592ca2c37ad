"""Our front end, encoder and loader beside those that people would use instead, in one run."""
