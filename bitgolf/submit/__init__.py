"""The record folder of finished runs: every figure computed again, nothing that does not fit together."""
