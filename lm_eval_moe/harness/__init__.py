"""The one room that reaches into lm-evaluation-harness: what it replaces, wraps, prints and keeps to itself.

Everything else uses lm-eval's public names only (a test lists them). `versions` says which releases it was tested
with; both go through the same code: routing fields are put into the finished results, not into lm-eval's scoring.
"""
