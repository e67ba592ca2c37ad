"""The slots of the encoder."""
