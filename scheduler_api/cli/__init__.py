"""The command ``cronpost``: one module for each group of commands.

Most commands are HTTP clients of a running server; ``serve``, ``api``, ``node`` and ``demo`` start a process from
``server/``. A command's module is imported when the command is called, so that ``cronpost --version`` stays quick.
"""
