"""Every figure the project quotes: one module a question, each prints a table and one line of JSON."""
