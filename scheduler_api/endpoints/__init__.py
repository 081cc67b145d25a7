"""The endpoints, one module for each resource: read the request, call a use case, write the answer.

An endpoint makes no decision and never uses the store directly. ``wire/`` reads bodies and builds answers; ``problem``
turns errors into problem documents.
"""
