"""The API's answers: one struct for each JSON object, and the functions that build them. One module per resource.

The schemas of ``GET /openapi.json`` are generated from these structs, and only from them: names, types and
descriptions.
"""
