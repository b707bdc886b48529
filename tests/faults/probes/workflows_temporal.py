"""Workflows with one part that ends in some way (test_parts.py)."""
