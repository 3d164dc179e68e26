"""A foreign script executed where it can harm nothing, and what is seen of it there."""
