"""Real tables, pictures and sentences, and worlds whose causal structure is known."""
