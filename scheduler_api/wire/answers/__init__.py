"""What the API answers: one struct for each JSON object, and the functions that build them, one module per resource.

The schemas of ``GET /openapi.json`` are generated from these structs; names, types and descriptions have no other
source.
"""
