"""What clients send and receive: request bodies read into values of the model, and answers built from values.

``bodies`` and ``answers/`` have one struct for each JSON object; ``openapi.json`` is generated from them.
Every check of a field of a request is here, with the words of its error. Nothing here awaits, and nothing here knows
routes or statuses.
"""
