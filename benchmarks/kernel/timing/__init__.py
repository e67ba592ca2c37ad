"""How fast is a kernel? The race, what its times say, the machine's roof, and the whole run."""
