"""Ordinary ways to answer, which methods are compared with."""
