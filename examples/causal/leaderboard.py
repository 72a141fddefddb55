"""A study of the Open LLM Leaderboard: is there one causal order of capabilities behind six benchmarks?

Needs the leaderboard's table in the folder that LATENT_DATA names (open_llm_leaderboard/v2_models.csv.gz). It takes
about 20 seconds on one core, and writes a report with five figures to runs/leaderboard.

    python examples/causal/leaderboard.py [FOLDER]
"""

import sys
from pathlib import Path

from latent.causal import HCA, invariant_domains, open_llm_leaderboard, study_domains
from latent.core.errors import ConfigError

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/leaderboard")
try:
    table = open_llm_leaderboard()
except ConfigError as missing:
    print(f"Skipped: {missing}")
    raise SystemExit from None

print("Base models with 100 fine-tuned models or more:")
for name, rows in table.domains.items():
    print(f"  {name:14} {len(rows):4} rows")

# 1. One mixing for all base models asks for one principal subspace.
agreeing = invariant_domains(table.domains, components=3, tolerance=0.05)
print(f"\nThree components span the same subspace in: {', '.join(agreeing)}.")

# 2. Of these, which four fit one order best? The smallest of several is small by selection, too.
five = HCA(variation_draws=0).fit(table.only(agreeing).domains)
print("\nMIC of each set of four:")
for names, mic in five.subsets(4).items():
    if len(names) == 4:
        print(f"  {mic:.3f}  {', '.join(names)}")
best = next(names for names in five.subsets(4) if len(names) == 4)

# 3. The study of the best four: intervals over rows drawn anew, and tables in which no order is shared.
found = study_domains(table.only(best), draws=200)
print(f"\n{found.summary}")
for warning in found.warnings:
    print(f"Warning: {warning}")
report = found.report("python examples/causal/leaderboard.py")
report.save(folder)
print(f"\nFigures: {folder / 'figures'}/*.png\nReport:  {folder / 'report.html'}")
