"""Fewer bits: products of rounded factors, quantised weights, and how a comparison finds them."""
