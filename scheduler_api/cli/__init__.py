"""The command ``cronpost``: one module for each group of commands.

Most commands are clients that talk to a running server over HTTP; ``serve`` starts one from ``server/``. Modules are
imported when their command is called, so that ``cronpost --version`` stays quick.
"""
