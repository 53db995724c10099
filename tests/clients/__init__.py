"""Programs that use clients of others, each in a process of its own.

tritonclient's stubs and ours have the same names, and a process has one pool of such names.
"""
