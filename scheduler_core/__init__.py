"""The core of Cronpost: everything that fires jobs. It depends on no web framework.

Imports run one way: node -> usecases -> {plan, delivery, store} -> model -> triggers -> base.
"""
