"""What runs in a kernel's process: the program that forks it, and the loop that calls it."""
