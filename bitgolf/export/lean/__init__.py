"""What an exported folder has in place of core's definitions, and besides them: read, never imported."""
