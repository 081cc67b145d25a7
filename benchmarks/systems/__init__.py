"""The measured systems, one module each. To add one, write a class with the methods of ``base.System``."""
