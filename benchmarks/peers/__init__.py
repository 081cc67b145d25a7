"""Programs of the peers that are not installed with Cronpost. They run in ``.venv/peers``; see ``install``."""
