"""Typed bindings of the Lua scripts: one declaration for each script, one file for each folder of ``lua/``.

A declaration names the KEYS in order and, as a named tuple, the ARGV in order with their units. Callers pass named
values; the order is written nowhere else. ``tests/store/test_headers.py`` compares each declaration with the header of
its script.
"""
