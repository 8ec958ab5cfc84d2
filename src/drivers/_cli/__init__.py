"""The commands of ``smtpcore``, one a file, and what they share.

What lives here: arguments and what is printed. What does not: the entry point, which is a public module.
"""
