"""Our front end, encoder and loader, timed against the libraries that people use instead."""
