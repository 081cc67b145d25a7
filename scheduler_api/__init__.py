"""The HTTP face of Cronpost: routes, wire types, problem documents, the command line. Reaches the core through the
services of ``scheduler_core`` and never looks into Redis by itself."""
