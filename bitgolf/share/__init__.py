"""A packed model as one HTML file that runs it in the browser."""
