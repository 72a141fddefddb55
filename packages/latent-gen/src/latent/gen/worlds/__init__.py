"""Worlds: pictures whose factors are known exactly, can be set, and can be measured."""
