"""Other people's language models, scored on the same bytes: `bitgolf score RUN --beside hf:OWNER/NAME`."""
