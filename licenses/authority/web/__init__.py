"""The vendor's service over HTTP: the API that appliances and operators call, and the clerk's pages.

Invariant: the only package of `licenses` that imports flask, werkzeug or gunicorn. What is refused, and why, is decided
below; here it only gets its HTTP form.
"""
