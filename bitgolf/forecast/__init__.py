"""Forecasts of bytes, memory and time before a run."""
