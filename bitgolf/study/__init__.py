"""Many runs: what to compare, running it anywhere, and what may be claimed."""
