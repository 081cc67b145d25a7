"""The HTTP API of Cronpost, its command line and its server process.

Imports run one way: ``cli`` -> ``server`` -> ``app`` -> ``endpoints`` -> ``openapi`` -> ``wire``. This package uses the
core through ``usecases/`` and ``node/`` of ``scheduler_core``, and never Redis itself.
"""
