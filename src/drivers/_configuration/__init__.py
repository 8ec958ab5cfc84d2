"""The parts of a relay's configuration: what can be set, reading it, and what is made of it.

What lives here: one part a file. What does not: the configuration as a whole, which is a public module.
"""
