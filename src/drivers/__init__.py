"""Drivers: sockets, clocks, tasks, TLS, spool, service, command line.

What lives here: nothing but this line of orientation; each driver is imported by its own name.
"""
