"""What a person sees: screens, charts, reports."""
