"""Published work of others, read as data: logs as tables and curves, record folders in the ledger."""
