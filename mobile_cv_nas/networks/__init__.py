"""Networks of one arch and supernets of a space, and what is done with their weights."""
