"""From weights to the bytes that are shipped, and back."""
