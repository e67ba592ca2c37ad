"""Name the mistake that explains a wrong tensor."""
