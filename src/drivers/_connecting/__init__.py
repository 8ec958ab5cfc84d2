"""From a host and a port to a connected socket.

What lives here: the race of addresses (RFC 8305), and how each wire driver runs it. What does not: TLS, and sessions.
"""
