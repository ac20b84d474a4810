"""Pytest runs from the checkout or against an installed wheel; the tests are the same."""
