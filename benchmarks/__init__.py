"""The benchmarks behind every figure of the documentation; each module prints a table and one line of JSON."""
