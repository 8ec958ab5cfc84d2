"""What sessions of all wire drivers share: their state, options, floors, bodies, the mails to send, the journal.

What lives here: all that waits for nothing. What does not: the drivers, and connecting.
"""
