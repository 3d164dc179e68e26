"""One module for each kind of case, named after it; `check` fails where bitgolf does not agree."""
