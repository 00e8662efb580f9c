"""The command `tokencap`: what a store knows, and budgets changed from outside of the app that spends.

It needs nothing but Python, so that `tokencap run` works in any image the app works in.
"""
