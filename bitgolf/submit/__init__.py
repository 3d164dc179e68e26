"""The record folder of finished runs: every figure computed again, inconsistent runs refused."""
