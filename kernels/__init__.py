"""Numbers in, numbers out: the rules behind every op and the loops that run them."""
