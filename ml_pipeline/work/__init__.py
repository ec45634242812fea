"""The work for one tenant, in worker processes: read rows, call pure functions, write rows."""
