"""What sessions of all wire drivers share: options, floors, bodies, the mails to send, the journal.

What lives here: helpers that wait for nothing. What does not: the drivers, and connecting.
"""
