"""What is measured: one module per system. To add one, write a class with the methods of ``base.System``."""
