"""The description of the API for machines: ``GET /openapi.json`` (OpenAPI 3.1), one module for each resource.

Field rules come from ``wire/`` where the check is there. Tests compare the document with the routes and with every
answer that the API gives.
"""
