"""Write results for people and programs: tables, pages and JSON. Nothing is computed here but sums.

Import the module that draws what you need: `plans`, `describe`, `cards`, `comparisons`, `modelfiles`, `html`.
"""
