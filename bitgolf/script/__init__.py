"""The single file that a recipe becomes, and its bytes."""
