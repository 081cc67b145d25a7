"""Reads request bodies into values of the model, and builds answers from values.

``bodies`` and ``answers/`` have one struct for each JSON object; ``openapi.json`` is generated from them. All checks of
request fields are here, with their error texts. Nothing here awaits, or depends on routes and statuses.
"""
