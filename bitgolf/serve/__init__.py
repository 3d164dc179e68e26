"""A packed model behind the OpenAI completions protocol."""
