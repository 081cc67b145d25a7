"""The OpenAPI 3.1 document of the API: the types that describe an operation, and the generator.

Descriptions are not here: each operation stands below its endpoint in ``endpoints/``, and schemas are generated from
the structs in ``wire/answers`` and ``wire/bodies``. Tests compare the document with the routes and with every answer
that the API gives.
"""
