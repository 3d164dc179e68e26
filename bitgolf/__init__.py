"""bitgolf trains, squeezes and proves the best language model that fits in N bytes."""
