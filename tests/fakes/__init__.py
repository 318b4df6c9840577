"""Builders and fakes for everybody's tests."""
