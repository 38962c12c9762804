"""The report: reads published results; shows them in a terminal, as CSV or JSON, and as one HTML file."""
