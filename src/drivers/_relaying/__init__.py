"""What the relay services share: the owner of the machine, its log, and what each delivery needs.

What lives here: everything that is alike on event loops and in threads. What does not: the services themselves.
"""
