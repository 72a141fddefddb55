"""Metrics that more than one family uses: probes, ranks, similarities, identifiability and statistics over runs."""
