"""The CPU engine: vector tiles, products, the walk over a plan, normalisation and second order."""
