"""The verbs of the command line; nothing imports them."""
