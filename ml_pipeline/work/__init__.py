"""One tenant's share of an asset, start to end: rows in, pure functions, rows out. Runs in worker processes."""
