"""The command ``cronpost``: ``main`` lists the groups, and a group lists its commands with their modules.

Most commands are HTTP clients of a running server; ``serve``, ``api``, ``node`` and ``demo`` start a process from
``server/``. A command's module is imported when the command is called, so that ``cronpost --version`` stays quick.
"""
