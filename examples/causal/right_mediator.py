"""Ask where a small network keeps whether two of its inputs are equal, by several kinds of units and searches.

python examples/causal/right_mediator.py
"""

import tempfile
from pathlib import Path

from latent.causal import MediationAnalysis, MediationConfig
from latent.causal.data.equality import EqualityNetwork, EqualityVectors, equality_network
from latent.causal.mediation.agreement import agreement
from latent.causal.mediation.alignment import DAS
from latent.causal.mediation.metrics import LogitDifference
from latent.causal.mediation.units import units
from latent.core.run.context import ArmContext


def main() -> None:
    """Train the network, rank its neurons, then look for the subspace that carries [a = b]."""
    with tempfile.TemporaryDirectory() as folder:
        context = ArmContext(Path(folder) / "arm", Path(folder) / "shared", "causal/right-mediator", seed=0)
        model = equality_network(context, EqualityNetwork(steps=3500))
        context.close()
    world = EqualityVectors()
    train, test = (world.pairs(4096, "left", seed=0, name=name) for name in ("train", "test"))
    minimal = world.pairs(512, "left", seed=0, name="minimal", minimal=True)  # a = b is all that differs

    neurons = units(model, "neuron", inputs=minimal.base, sites="1")
    analysis = MediationAnalysis(MediationConfig(size=0.25))
    metric = LogitDifference(minimal.source_labels, minimal.base_labels)
    results = analysis.analyse(model, neurons, minimal.base, minimal.source, metric)
    print("16 of 64 neurons of the first layer\n")
    print("search         kept alone   random ones   seconds   exchanged: cause   isolate")
    for each in results:
        found = agreement(model, neurons, test, weights=each.chosen.float())
        random = each.controls["faithfulness random"]
        print(
            f"{each.search:13} {each.test.sufficiency:11.2f} {random:13.2f} {each.seconds:9.3f} "
            f"{found.cause:18.2f} {found.isolate:9.2f}"
        )

    search = DAS("1", 8).fit(model, train.base, train.source, train.labels)
    print("\n8 of 64 dimensions      right   cause   isolate")
    for name, found in {"DAS": search.scores(model, test), **search.controls(model, train, test)}.items():
        print(f"{name:20} {found.iia:8.2f} {found.cause:7.2f} {found.isolate:9.2f}")


if __name__ == "__main__":
    main()
