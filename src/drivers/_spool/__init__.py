"""The parts of the SQLite spool: its schema, its rows, taking bodies in, its reserve of room, its errors.

What lives here: one part a file. What does not: the spool itself.
"""
