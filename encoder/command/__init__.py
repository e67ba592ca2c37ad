"""What `melfront encoder` does with a list of clips: find them, read ahead, encode, write."""
