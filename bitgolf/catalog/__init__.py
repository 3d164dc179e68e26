"""Every technique and every room, listed from the code."""
