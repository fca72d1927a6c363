"""Results as people and programs read them: tables, pages and JSON. Nothing is computed here but sums.

Import the module that draws what you need: `plans`, `describe`, `cards`, `comparisons`, `modelfiles`, `html`.
"""
