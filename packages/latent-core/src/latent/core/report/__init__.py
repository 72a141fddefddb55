"""Claims and their verdicts, reports of runs, their figures, comparisons and the ledger of all claims."""
