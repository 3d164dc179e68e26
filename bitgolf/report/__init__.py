"""Output for people: screens, charts, reports."""
