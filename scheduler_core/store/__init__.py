"""The store: Redis, and nothing else that knows it. Every step of a job is one Lua script of ``lua/``."""
