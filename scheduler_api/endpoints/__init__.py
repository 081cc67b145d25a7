"""The endpoints, one module for each resource: read a request, call a use case, write the answer.

An endpoint decides nothing and never uses the store. Bodies are read and answers are built in ``wire/``; errors become
problem documents in ``problem``.
"""
