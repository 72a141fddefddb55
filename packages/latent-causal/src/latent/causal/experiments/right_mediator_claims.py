"""What is claimed of kinds of mediators and searches, on which networks, and what is measured for it."""

from collections.abc import Mapping

from latent.causal.data.ravel import ATTRIBUTES
from latent.core.report.claims import AtLeast, AtMost, Below, Claim, Control, Exceeds
from latent.core.run.experiment import Arm

__all__ = ["ARMS", "CLAIMS", "MEASURES", "MEDIATORS", "NUMBERS"]

ARMS: Mapping[str, Arm] = {
    "perceptron": Arm("method", "Hierarchical equality of vectors, by a perceptron.", quick=True),
    "untrained": Arm("control", "The same perceptron with random weights.", quick=True),
    "transformer": Arm("method", "Hierarchical equality of words, by a small transformer."),
    "sorter": Arm("method", "Six letters in order, by a real GPT of 86 thousand weights."),
    "cities": Arm("method", "Country, continent and language of cities, in a small Llama."),
}
CLAIMS = (
    Claim(
        id="das-aligns",
        statement="In the first hidden layer DAS finds a subspace of 8 dimensions that carries [a = b].",
        source="arXiv:2408.01416, section on subspaces; arXiv:2303.02536, hierarchical equality",
        paper_value="IIA near 1",
        check=AtLeast(arm="perceptron", measure="subspace_das_iia", value=0.9),
        controls=(
            Control(arm="perceptron", measure="subspace_shuffled_iia", summary="labels of other pairs"),
            Control(arm="perceptron", measure="subspace_pca_iia", summary="principal directions"),
            Control(arm="perceptron", measure="subspace_random_iia", summary="random directions"),
            Control(arm="perceptron", measure="layer_full_iia", summary="the whole layer"),
            Control(arm="untrained", measure="subspace_das_iia", summary="random weights"),
        ),
    ),
    Claim(
        id="controls-stay-low",
        statement="The best of its controls stays at or below .65.",
        source="arXiv:2408.01416, pitfalls of flexible searches",
        paper_value="not given",
        check=AtMost(arm="perceptron", measure="best_control", value=0.65),
        controls=(Control(arm="perceptron", measure="subspace_das_iia", summary="DAS itself"),),
    ),
    Claim(
        id="random-network-stays-low",
        statement="DAS stays at or below .65 in a network that has learned nothing.",
        source="arXiv:2408.01416, pitfalls of flexible searches",
        paper_value="not given",
        check=AtMost(arm="untrained", measure="subspace_das_iia", value=0.65),
        controls=(Control(arm="perceptron", measure="subspace_das_iia", summary="the trained network"),),
    ),
    Claim(
        id="attribution-is-close",
        statement="In each layer attribution gives neurons effects that correlate with exact ones by .95 or more.",
        source="arXiv:2408.01416, attribution patching",
        paper_value="not given",
        check=AtLeast(arm="perceptron", measure="attribution_pearson", value=0.95),
        controls=(Control(arm="perceptron", measure="permuted_pearson", summary="effects of other neurons"),),
    ),
    Claim(
        id="integrated-adds-up",
        statement="With 20 steps the integrated effects of a layer add up to the total effect within 2 %.",
        source="arXiv:2403.17806; arXiv:1703.01365, completeness",
        paper_value="0 in the limit",
        check=AtMost(arm="perceptron", measure="integrated_gap", value=0.02),
        controls=(Control(arm="perceptron", measure="attribution_gap", summary="one gradient"),),
    ),
    Claim(
        id="rankings-are-faithful",
        statement="A quarter of the neurons, by any ranking, keeps more of the behaviour than random ones by .3.",
        source="arXiv:2504.13151, faithfulness",
        paper_value="not given",
        check=Exceeds(
            arm="perceptron", measure="faithfulness_worst", over=("perceptron", "faithfulness_random"), margin=0.3
        ),
        controls=(Control(arm="perceptron", measure="faithfulness_lowest", summary="neurons ranked last"),),
    ),
    Claim(
        id="circuits-are-near",
        statement="Circuits by any ranking are nearer to the network, over all sizes, than random ones.",
        source="arXiv:2504.13151, CMD",
        paper_value="EAP .03 to .18, random .68 to .75 (edges)",
        check=Below(arm="perceptron", measure="cmd_worst", over=("perceptron", "cmd_random")),
        controls=(Control(arm="perceptron", measure="cmd_lowest", summary="neurons ranked last"),),
    ),
    Claim(
        id="das-separates-attributes",
        statement="On unseen cities DAS separates attributes better than the whole vector does, by .1.",
        source="arXiv:2402.17700, Cause and Isolate",
        paper_value="not given",
        check=Exceeds(arm="cities", measure="subspace_das_score", over=("cities", "layer_full_score"), margin=0.1),
        controls=(
            Control(arm="cities", measure="subspace_shuffled_score", summary="labels of other pairs"),
            Control(arm="cities", measure="subspace_pca_score", summary="principal directions"),
            Control(arm="cities", measure="subspace_random_score", summary="random directions"),
        ),
    ),
    Claim(
        id="das-is-best",
        statement="On unseen cities no other mediator or search separates attributes better than DAS.",
        source="arXiv:2504.13151, causal variable track",
        paper_value="DAS highest on every task",
        check=Exceeds(arm="cities", measure="subspace_das_score", over=("cities", "best_other")),
        controls=(Control(arm="cities", measure="subspace_shuffled_score", summary="labels of other pairs"),),
    ),
    Claim(
        id="features-are-no-better-than-neurons",
        statement="Sparse features by a mask separate attributes as well as coordinates by a mask, to within .05.",
        source="arXiv:2504.13151, causal variable track",
        paper_value="about equal",
        check=AtMost(arm="cities", measure="feature_difference", value=0.05),
        controls=(Control(arm="cities", measure="das_difference", summary="DAS over coordinates"),),
    ),
)  # fmt: skip

#: What is measured of each mediator.
NUMBERS: Mapping[str, str] = {
    "iia": "share of unseen pairs with the counterfactual answer",
    "cause": "the same among pairs whose answer should change",
    "isolate": "the same among those whose answer should stay",
    "score": "mean of cause and isolate",
    "size": "share of the units or dimensions that are exchanged",
    "faithfulness": "of the circuit that is kept, on unseen minimal pairs",
    "cmd": "distance of circuits of all sizes from the network",
    "seconds": "time of the search",
}
#: Mediators and searches.
MEDIATORS: Mapping[str, str] = {
    **{
        f"{kind}_{search}": f"{kind.capitalize()}s by {how}"
        for kind in ("layer", "head", "neuron")
        for search, how in {
            "exhaustive": "exhaustive search", "attribution": "attribution", "integrated": "integrated gradients",
            "mask": "a learned mask",
        }.items()
    },
    "feature_mask": "Sparse features by a learned mask",
    "layer_full": "The whole vector",
    "direction_means": "Directions by differences of means",
    "direction_probe": "Directions by linear probes",
    "subspace_pca": "Principal directions",
    "subspace_random": "Random directions",
    "subspace_shuffled": "DAS on labels of other pairs",
    "subspace_boundless": "Boundless DAS",
    "subspace_das": "DAS",
}  # fmt: skip
MEASURES: Mapping[str, str] = {
    "accuracy": "Share of right answers of the network as it is.",
    "best_control": "Greatest IIA among `layer_full`, `subspace_pca`, `subspace_random` and `subspace_shuffled`.",
    "das_rank_2": "IIA of DAS with two dimensions.",
    "das_second_layer": "IIA of DAS in the second hidden layer.",
    "das_last_layer": "IIA of DAS in the last hidden layer.",
    "attribution_pearson": "Correlation of neurons' effects by attribution with exact ones, the lowest of the layers.",
    "integrated_pearson": "The same of integrated gradients.",
    "permuted_pearson": "The same of exact effects in a random order.",
    "attribution_gap": "How far the effects of a layer's neurons are from the total effect, the largest of the layers.",
    "integrated_gap": "The same of integrated gradients.",
    "exhaustive_gap": "The same of exact effects: interaction.",
    "faithfulness_worst": "Faithfulness of a quarter of the neurons, the lowest of three rankings.",
    "faithfulness_random": "The same of random neurons.",
    "faithfulness_lowest": "The same of the neurons that are ranked last, the greatest.",
    "cmd_worst": "Distance of circuits from the network over all sizes, the greatest of three rankings.",
    "cmd_random": "The same of random rankings.",
    "cmd_lowest": "The same of rankings turned round, the least.",
    "best_other": "Greatest score of whatever is not DAS.",
    "feature_gain": "Score of sparse features less that of coordinates.",
    "das_gain": "Score of DAS less that of coordinates.",
    "feature_difference": "`feature_gain` without its sign.",
    "das_difference": "`das_gain` without its sign.",
    "unexplained": "Share of the variance that the dictionary does not explain.",
    **{f"{attribute}_das_score": f"Score of DAS for the {attribute}." for attribute in ATTRIBUTES},
    **{f"{name}_{key}": f"{what}: {number}." for name, what in MEDIATORS.items() for key, number in NUMBERS.items()},
}
