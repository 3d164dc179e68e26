"""What a recipe will weigh and take, before it runs."""
