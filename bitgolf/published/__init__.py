"""What other people published, read as data: logs to tables and curves, record folders into the ledger."""
