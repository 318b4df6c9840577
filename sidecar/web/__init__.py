"""HTTP: the only package that imports Flask.

Invariant: routes translate and render; every decision is made behind `Services`. Importing this package imports
nothing else, so that gunicorn's master stays small.
"""
