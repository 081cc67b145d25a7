"""Programs of the peers that are not installed with Cronpost. They run under ``.venv/peers``, see ``install``."""
